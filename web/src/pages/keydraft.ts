// A key as it stands in the form, and as it is sent.
import type { FieldErrors, Key, Schemas } from "../api/client";
import type { Text } from "../i18n/en";
import { check, instantOf, listOf, localInstant } from "../ui/form";

export const accountFields = ["claudeAccountId", "claudeConsoleAccountId", "geminiAccountId", "openaiAccountId", "bedrockAccountId"] as const;
const moneyFields = ["dailyCostLimit", "weeklyCostLimit", "monthlyCostLimit", "totalCostLimit"] as const;
const countFields = ["rateLimitWindow", "rateLimitRequests", "tokenLimit", "concurrencyLimit"] as const;

/** Draft is a key's fields as they stand in the form: texts, until they are sent. */
export type Draft = Record<string, string> & { services: string; models: string };

export const emptyDraft: Draft = {
  name: "", baseName: "", count: "10", description: "", tags: "", expiresAt: "", isActive: "yes",
  dailyCostLimit: "", weeklyCostLimit: "", monthlyCostLimit: "", totalCostLimit: "",
  rateLimitWindow: "", rateLimitRequests: "", tokenLimit: "", concurrencyLimit: "",
  services: "all", models: "any", modelList: "", clients: "any", allowedClients: "",
  claudeAccountId: "", claudeConsoleAccountId: "", geminiAccountId: "", openaiAccountId: "", bedrockAccountId: "",
  estimatePerRequest: "", enforcement: "enforce",
};

export function draftOf(k: Key): Draft {
  const number = (n: number | null) => (n ? String(n) : "");
  return {
    ...emptyDraft,
    name: k.name, description: k.description, tags: k.tags.join(", "), expiresAt: localInstant(k.expiresAt), isActive: k.isActive ? "yes" : "no",
    dailyCostLimit: plain(k.dailyCostLimit), weeklyCostLimit: plain(k.weeklyCostLimit), monthlyCostLimit: plain(k.monthlyCostLimit), totalCostLimit: plain(k.totalCostLimit),
    rateLimitWindow: number(k.rateLimitWindow), rateLimitRequests: number(k.rateLimitRequests), tokenLimit: number(k.tokenLimit), concurrencyLimit: number(k.concurrencyLimit),
    services: k.permissions.join(","),
    models: !k.enableModelRestriction ? "any" : k.allowedModels.length > 0 ? "allow" : "deny",
    modelList: (k.allowedModels.length > 0 ? k.allowedModels : k.restrictedModels).join("\n"),
    clients: k.enableClientRestriction && k.allowedClients.length > 0 ? "some" : "any",
    allowedClients: k.allowedClients.join(","),
    ...Object.fromEntries(accountFields.map((f) => [f, k[f] ?? ""])),
    estimatePerRequest: k.estimatePerRequest === null ? "" : plain(k.estimatePerRequest), enforcement: k.enforcement,
  };
}

/** plain is an amount without an exponent; empty: none. */
function plain(usd: number): string {
  return usd === 0 ? "" : usd.toFixed(12).replace(/\.?0+$/, "");
}

/** bodyOf is what a form asks for. An empty limit is none; so is an empty default on create, but for the limit of tokens. */
export function bodyOf(d: Draft, create: boolean): Schemas["KeyUpdate"] {
  const count = (text: string) => (text.trim() === "" ? 0 : Number(text));
  const money = (text: string) => (text.trim() === "" ? 0 : text.trim());
  const list = listOf(d.modelList ?? "");
  const body: Record<string, unknown> = {
    description: d.description?.trim(), tags: listOf(d.tags ?? ""), expiresAt: instantOf(d.expiresAt ?? ""), isActive: d.isActive === "yes",
    permissions: d.services.split(",").filter((s) => s !== ""),
    enableModelRestriction: d.models !== "any", allowedModels: d.models === "allow" ? list : [], restrictedModels: d.models === "deny" ? list : [],
    enableClientRestriction: d.clients === "some", allowedClients: d.clients === "some" ? listOf(d.allowedClients ?? "") : [],
    enforcement: d.enforcement, estimatePerRequest: d.estimatePerRequest?.trim() || null,
  };
  if (!create) body.name = d.name?.trim();
  for (const f of moneyFields) body[f] = money(d[f] ?? "");
  for (const f of countFields) body[f] = count(d[f] ?? "");
  for (const f of accountFields) body[f] = d[f]?.trim() || null;
  if (create && d.tokenLimit?.trim() === "") delete body.tokenLimit;
  return body as Schemas["KeyUpdate"];
}

/** errorsOf are the fields that would be refused. */
export function errorsOf(t: Text, d: Draft, naming: "name" | "batch"): FieldErrors {
  const found: FieldErrors = {};
  const add = (field: string, message: string) => message && (found[field] = message);
  if (naming === "name") add("name", check(t, "name", d.name ?? "", true));
  else {
    add("baseName", check(t, "baseName", d.baseName ?? "", true));
    add("count", check(t, "count", d.count ?? "", true));
  }
  for (const f of ["description", "tags", ...moneyFields, ...countFields, ...accountFields]) add(f, check(t, f, d[f] ?? ""));
  add("estimatePerRequest", check(t, "dailyCostLimit", d.estimatePerRequest ?? ""));
  if (d.models !== "any") add("modelList", check(t, "restrictedModels", d.modelList ?? "", true));
  if (d.services === "") add("permissions", t.rule.required);
  if (d.clients === "some" && d.allowedClients === "") add("allowedClients", t.rule.required);
  return found;
}

