// Uses the official SDKs against a relay and prints what they made of it, as JSON.
// Environment: RELAY is its address; GOOD, SPENT, DENIED, WRONG and SLOT_<provider> are keys.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { GoogleGenAI } from "@google/genai";

const relay = process.env.RELAY;
const messages = [{ role: "user", content: "hello" }];
const claude = { model: "claude-sonnet-4-20250514", max_tokens: 100, messages };
const chat = { model: "gpt-4o", max_completion_tokens: 100, messages };
const response = { model: "gpt-4o", max_output_tokens: 100, input: "hello" };
const content = { model: "gemini-2.5-flash", contents: "hello", config: { maxOutputTokens: 100 } };

const anthropic = (key, headers) => new Anthropic({ baseURL: relay, apiKey: process.env[key], defaultHeaders: headers });
const openai = (key, headers) => new OpenAI({ baseURL: relay + "/v1", apiKey: process.env[key], defaultHeaders: headers });
const gemini = (key, headers, retryOptions) =>
  new GoogleGenAI({ apiKey: process.env[key], httpOptions: { baseUrl: relay, headers, retryOptions } });

const results = {};

async function note(name, act) {
  const started = Date.now();
  try {
    results[name] = { ok: await act() };
  } catch (e) {
    results[name] = { error: e.constructor.name, status: e.status, type: e.error?.error?.type ?? e.type, code: e.code, message: String(e.message) };
  }
  results[name].ms = Date.now() - started;
}

async function gather(stream, text, enough = Infinity, stop = () => {}) {
  let all = "";
  let events = 0;
  for await (const event of stream) {
    all += text(event) ?? "";
    if (++events >= enough) {
      stop();
      break;
    }
  }
  return all;
}

const providers = {
  claude: {
    plain: async (key) => (await anthropic(key).messages.create(claude)).content[0].text,
    stream: async (key, headers) => {
      const stream = anthropic(key, headers).messages.stream(claude);
      const all = await gather(stream, (e) => e.delta?.text);
      return all + JSON.stringify((await stream.finalMessage()).usage.output_tokens);
    },
    abort: async (key, headers) => {
      const stream = await anthropic(key, headers).messages.create({ ...claude, stream: true });
      return gather(stream, (e) => e.delta?.text, 6, () => stream.controller.abort());
    },
  },
  chat: {
    plain: async (key) => (await openai(key).chat.completions.create(chat)).choices[0].message.content,
    stream: async (key, headers) => gather(await openai(key, headers).chat.completions.create({ ...chat, stream: true }), (e) => e.choices[0].delta.content),
    usage: async (key) => {
      const stream = await openai(key).chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } });
      return gather(stream, (e) => e.usage?.completion_tokens);
    },
    abort: async (key, headers) => {
      const stream = await openai(key, headers).chat.completions.create({ ...chat, stream: true });
      return gather(stream, (e) => e.choices[0].delta.content, 3, () => stream.controller.abort());
    },
  },
  responses: {
    plain: async (key) => (await openai(key).responses.create(response)).output_text,
    stream: async (key, headers) => gather(await openai(key, headers).responses.create({ ...response, stream: true }), (e) => (e.type === "response.output_text.delta" ? e.delta : "")),
    abort: async (key, headers) => {
      const stream = await openai(key, headers).responses.create({ ...response, stream: true });
      return gather(stream, (e) => (e.type === "response.output_text.delta" ? e.delta : ""), 4, () => stream.controller.abort());
    },
  },
  gemini: {
    plain: async (key) => (await gemini(key).models.generateContent(content)).text,
    stream: async (key, headers, retry) => gather(await gemini(key, headers, retry).models.generateContentStream(content), (e) => e.text),
    abort: async (key, headers) => {
      const abort = new AbortController();
      const stream = await gemini(key, headers).models.generateContentStream({ ...content, config: { ...content.config, abortSignal: abort.signal } });
      return gather(stream, (e) => e.text, 3, () => abort.abort());
    },
  },
};

async function tryAll(name, p) {
  await note(name + " plain", () => p.plain("GOOD"));
  await note(name + " stream", () => p.stream("GOOD"));
  if (p.usage) {
    await note(name + " usage", () => p.usage("GOOD"));
  }
  for (const key of ["WRONG", "DENIED", "SPENT"]) {
    await note(name + " " + key, () => p.plain(key));
    await note(name + " stream " + key, () => p.stream(key));
  }
  await note(name + " abort", () => p.abort("GOOD", { "X-Mock-Events": "30", "X-Mock-Gap": "50ms" }));
  // One of the two finds the key's only slot taken, is told to come again, and does.
  const slot = "SLOT_" + name;
  await Promise.all([1, 2].map((n) => note(name + " slot " + n, () => p.stream(slot, { "X-Mock-Gap": "100ms" }, { attempts: 4 }))));
}
await Promise.all(Object.entries(providers).map(([name, p]) => tryAll(name, p)));
await note("models", async () => (await openai("GOOD").models.list()).data[0].id);
await note("count", async () => (await anthropic("GOOD").messages.countTokens({ model: claude.model, messages })).input_tokens);
await note("embeddings", async () => (await openai("GOOD").embeddings.create({ model: "text-embedding-3-small", input: "hello", encoding_format: "float" })).data.length);
console.log(JSON.stringify(results));
