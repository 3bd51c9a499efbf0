// What pages read. Numbers that move are asked for every few seconds, which TanStack Query
// stops while the tab is hidden; an answer that has not changed is a 304 without a body.
import { MutationCache, QueryCache, QueryClient, queryOptions } from "@tanstack/preact-query";
import { api, Lost, Problem, unwrap, type Schemas } from "./client";
import type { operations } from "./schema";

const live = 5_000;
const slow = 10_000;

type Query<Name extends keyof operations> = operations[Name] extends { parameters: { query?: infer Q } } ? NonNullable<Q> : never;

// Any 401 may mean that the session is over: asking for it tells.
function ended(error: unknown) {
  if (error instanceof Problem && error.status === 401) void queryClient.invalidateQueries({ queryKey: ["session"] });
}

export const queryClient: QueryClient = new QueryClient({
  queryCache: new QueryCache({ onError: (error, query) => query.queryKey[0] !== "session" && ended(error) }),
  mutationCache: new MutationCache({ onError: ended }),
  defaultOptions: {
    queries: {
      networkMode: "always",
      // A refusal stays one. What had no answer is asked for again.
      retry: (failures, error) => (error instanceof Lost || (error instanceof Problem && error.status === 503)) && failures < 2,
      retryDelay: 800,
      staleTime: 1_000,
    },
    mutations: { networkMode: "always" },
  },
});

export const session = () =>
  queryOptions({ queryKey: ["session"], queryFn: ({ signal }) => unwrap(api.GET("/v1/session", { signal })), staleTime: Infinity, refetchOnWindowFocus: "always" });

export const overview = () => queryOptions({ queryKey: ["overview"], queryFn: ({ signal }) => unwrap(api.GET("/v1/overview", { signal })), refetchInterval: live });

export const keyList = (query: Query<"ListKeys">) =>
  queryOptions({
    queryKey: ["keys", query],
    queryFn: ({ signal }) => unwrap(api.GET("/v1/keys", { signal, params: { query } })),
    refetchInterval: live,
    placeholderData: (before) => before,
  });

const of = (id: string) => ({ params: { path: { id } } });

export const key = (id: string) => queryOptions({ queryKey: ["key", id], queryFn: ({ signal }) => unwrap(api.GET("/v1/keys/{id}", { signal, ...of(id) })), refetchInterval: live });

export const keyUsage = (id: string) =>
  queryOptions({ queryKey: ["key", id, "usage"], queryFn: ({ signal }) => unwrap(api.GET("/v1/keys/{id}/usage", { signal, ...of(id) })), refetchInterval: live });

export const keyAdmissions = (id: string) =>
  queryOptions({ queryKey: ["key", id, "admissions"], queryFn: ({ signal }) => unwrap(api.GET("/v1/keys/{id}/admissions", { signal, ...of(id) })), refetchInterval: live });

export const keySecrets = (id: string) =>
  queryOptions({ queryKey: ["key", id, "secrets"], queryFn: ({ signal }) => unwrap(api.GET("/v1/keys/{id}/secrets", { signal, ...of(id) })), refetchInterval: slow });

export const keyRefusals = (id: string) =>
  queryOptions({ queryKey: ["key", id, "refusals"], queryFn: ({ signal }) => unwrap(api.GET("/v1/keys/{id}/refusals", { signal, ...of(id) })), refetchInterval: slow });

export const keyAudit = (id: string) =>
  queryOptions({ queryKey: ["key", id, "audit"], queryFn: ({ signal }) => unwrap(api.GET("/v1/keys/{id}/audit", { signal, ...of(id) })), refetchInterval: slow });

export const events = (query: Query<"ListEvents">) =>
  queryOptions({ queryKey: ["events", query], queryFn: ({ signal }) => unwrap(api.GET("/v1/events", { signal, params: { query } })), refetchInterval: live, placeholderData: (before) => before });

export const tags = () => queryOptions({ queryKey: ["tags"], queryFn: ({ signal }) => unwrap(api.GET("/v1/tags", { signal })), staleTime: slow });

export const clients = () => queryOptions({ queryKey: ["clients"], queryFn: ({ signal }) => unwrap(api.GET("/v1/clients", { signal })), staleTime: Infinity });

export const report = (query: Query<"ReportUsage">, every: number | false = slow) =>
  queryOptions({
    queryKey: ["report", query],
    queryFn: async ({ signal }) => (await unwrap(api.GET("/v1/reports/usage", { signal, params: { query } }))) as Schemas["UsageReport"], // CSV is asked for by a link
    refetchInterval: every,
    placeholderData: (before) => before,
  });

export const accounts = (query: Query<"ListAccountUsage">) =>
  queryOptions({ queryKey: ["accounts", query], queryFn: ({ signal }) => unwrap(api.GET("/v1/accounts/usage", { signal, params: { query } })), refetchInterval: slow, placeholderData: (before) => before });

export const accountUsage = (accountId: string) =>
  queryOptions({ queryKey: ["account", accountId], queryFn: ({ signal }) => unwrap(api.GET("/v1/accounts/{accountId}/usage", { signal, params: { path: { accountId } } })), refetchInterval: slow });

export const prices = (query: Query<"ListPrices">) =>
  queryOptions({ queryKey: ["prices", query], queryFn: ({ signal }) => unwrap(api.GET("/v1/prices", { signal, params: { query } })), placeholderData: (before) => before });

export const unpriced = () => queryOptions({ queryKey: ["unpriced"], queryFn: ({ signal }) => unwrap(api.GET("/v1/prices/unpriced", { signal })), refetchInterval: slow });

export const tokens = () => queryOptions({ queryKey: ["tokens"], queryFn: ({ signal }) => unwrap(api.GET("/v1/tokens", { signal })), refetchInterval: slow });

export const webhooks = () => queryOptions({ queryKey: ["webhooks"], queryFn: ({ signal }) => unwrap(api.GET("/v1/webhooks", { signal })), refetchInterval: slow });

export const deliveries = (id: string, query: Query<"ListDeliveries">) =>
  queryOptions({ queryKey: ["deliveries", id, query], queryFn: ({ signal }) => unwrap(api.GET("/v1/webhooks/{id}/deliveries", { signal, params: { path: { id }, query } })), refetchInterval: live, placeholderData: (before) => before });

export const audit = (query: Query<"ListAudit">) =>
  queryOptions({ queryKey: ["audit", query], queryFn: ({ signal }) => unwrap(api.GET("/v1/audit", { signal, params: { query } })), refetchInterval: slow, placeholderData: (before) => before });

export const relay = () => queryOptions({ queryKey: ["relay"], queryFn: ({ signal }) => unwrap(api.GET("/v1/relay", { signal })), refetchInterval: live });

export const service = () => queryOptions({ queryKey: ["service"], queryFn: ({ signal }) => unwrap(api.GET("/v1/service", { signal })), refetchInterval: live });
