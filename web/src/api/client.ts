// The console's way to the service: the public REST API, by the session's cookie.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Key = Schemas["KeyDetails"];
export type FieldErrors = Record<string, string>;

/** Problem is an answer that tells what went wrong (RFC 9457). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly requestId: string,
    readonly fields: FieldErrors,
  ) {
    super(detail);
  }
}

/** Lost is a request that had no answer: the service or the network is away. */
export class Lost extends Error {}

// watch tells whether the last request had an answer, to whoever listens.
let reached = true;
const listeners = new Set<(reached: boolean) => void>();

export function onReached(listener: (reached: boolean) => void): () => void {
  listeners.add(listener);
  listener(reached);
  return () => listeners.delete(listener);
}

function tell(now: boolean) {
  if (now === reached) return;
  reached = now;
  listeners.forEach((listener) => listener(now));
}

// What was answered with a weak entity tag is asked for with that tag the next time; a 304
// then stands for the same body. The browser does not do it by itself, since the service
// forbids it to store answers.
const kept = new Map<string, { tag: string; body: string; type: string }>();
const mostKept = 60;

export function forget() {
  kept.clear();
}

async function tracked(request: Request): Promise<Response> {
  const known = request.method === "GET" ? kept.get(request.url) : undefined;
  if (known) request.headers.set("If-None-Match", known.tag);
  let response: Response;
  try {
    response = await fetch(request);
  } catch (cause) {
    if (request.signal.aborted) throw cause;
    tell(false);
    throw new Lost("no answer", { cause });
  }
  tell(true);
  if (response.status === 304 && known) {
    return new Response(known.body, { status: 200, headers: { "Content-Type": known.type } });
  }
  const tag = response.headers.get("ETag");
  if (request.method !== "GET" || response.status !== 200 || !tag?.startsWith("W/")) return response;
  const body = await response.text();
  const type = response.headers.get("Content-Type") ?? "application/json";
  if (kept.size >= mostKept) kept.delete(kept.keys().next().value ?? "");
  kept.set(request.url, { tag, body, type });
  return new Response(body, { status: 200, headers: { "Content-Type": type } });
}

export const api = createClient<paths>({
  baseUrl: location.origin,
  headers: { "X-Keyledger-Console": "1" },
  querySerializer: { array: { style: "form", explode: false } },
  fetch: tracked,
});

/** unwrap is the body of an answer; a Problem is thrown. */
export async function unwrap<T>(answer: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  const { data, error, response } = await answer;
  if (response.ok) return data as T;
  throw problem(response, error);
}

function problem(response: Response, body: unknown): Problem {
  const p = (typeof body === "object" && body !== null ? body : {}) as Partial<Schemas["Problem"]>;
  const fields: FieldErrors = {};
  for (const { field, message } of p.errors ?? []) fields[field] ??= message;
  return new Problem(response.status, p.code ?? "", p.detail ?? response.statusText, p.requestId ?? "", fields);
}

/** fieldErrors are the wrong fields that an error names. */
export function fieldErrors(error: unknown): FieldErrors {
  return error instanceof Problem ? error.fields : {};
}
