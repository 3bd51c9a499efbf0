// A key as it stands in the form, and as it is sent.
import type { FieldErrors, Key, Schemas } from "../api/client";
import type { Text } from "../i18n/en";
import { check, half, instantOf, listOf, localInstant } from "../ui/form";

export const accountFields = ["claudeAccountId", "claudeConsoleAccountId", "geminiAccountId", "openaiAccountId", "bedrockAccountId"] as const;
const moneyFields = ["dailyCostLimit", "weeklyCostLimit", "monthlyCostLimit", "totalCostLimit"] as const;
const countFields = ["rateLimitWindow", "rateLimitRequests", "tokenLimit", "concurrencyLimit"] as const;

/** Draft is a key's fields as they stand in the form: texts, until they are sent. */
export type Draft = Record<string, string> & { services: string; models: string };

export const emptyDraft: Draft = {
  name: "", baseName: "", count: "10", description: "", tags: "", expiresAt: "", isActive: "yes",
  dailyCostLimit: "", weeklyCostLimit: "", monthlyCostLimit: "", totalCostLimit: "",
  rateLimitWindow: "", rateLimitRequests: "", tokenLimit: "", concurrencyLimit: "",
  services: "all", models: "any", allowedModels: "", restrictedModels: "", clients: "any", allowedClients: "",
  claudeAccountId: "", claudeConsoleAccountId: "", geminiAccountId: "", openaiAccountId: "", bedrockAccountId: "",
  estimatePerRequest: "", enforcement: "enforce", alertAt: "80, 100", alertExpiryDays: "7, 1",
};

export function draftOf(k: Key): Draft {
  const number = (n: number | null) => (n ? String(n) : "");
  return {
    ...emptyDraft,
    name: k.name, description: k.description, tags: k.tags.join("\n"), expiresAt: localInstant(k.expiresAt), isActive: k.isActive ? "yes" : "no",
    dailyCostLimit: plain(k.dailyCostLimit), weeklyCostLimit: plain(k.weeklyCostLimit), monthlyCostLimit: plain(k.monthlyCostLimit), totalCostLimit: plain(k.totalCostLimit),
    rateLimitWindow: number(k.rateLimitWindow), rateLimitRequests: number(k.rateLimitRequests), tokenLimit: number(k.tokenLimit), concurrencyLimit: number(k.concurrencyLimit),
    services: k.permissions.join(","),
    models: !k.enableModelRestriction ? "any" : k.allowedModels.length === 0 ? "deny" : k.restrictedModels.length === 0 ? "allow" : "both",
    allowedModels: k.allowedModels.join("\n"), restrictedModels: k.restrictedModels.join("\n"),
    clients: k.enableClientRestriction && k.allowedClients.length > 0 ? "some" : "any",
    allowedClients: k.allowedClients.join(","),
    ...Object.fromEntries(accountFields.map((f) => [f, k[f] ?? ""])),
    estimatePerRequest: k.estimatePerRequest === null ? "" : plain(k.estimatePerRequest), enforcement: k.enforcement,
    alertAt: k.alertAt.join(", "), alertExpiryDays: k.alertExpiryDays.join(", "),
  };
}

/** plain is an amount with the digits that it came with and no exponent; empty: none. */
function plain(usd: number): string {
  const text = String(usd);
  return usd === 0 ? "" : text.includes("e") ? usd.toFixed(12).replace(/\.?0+$/, "") : text;
}

/** bodyOf is what a form asks for. An empty limit is none; so is an empty default on create, but for the limit of tokens. */
export function bodyOf(d: Draft, create: boolean): Schemas["KeyUpdate"] {
  const count = (text: string) => (text.trim() === "" ? 0 : Number(text));
  const money = (text: string) => (text.trim() === "" ? 0 : text.trim());
  const list = (f: string, on: boolean) => (on ? listOf(d[f] ?? "") : []);
  const body: Record<string, unknown> = {
    description: d.description?.trim(), tags: listOf(d.tags ?? ""), expiresAt: instantOf(d.expiresAt ?? ""), isActive: d.isActive === "yes",
    permissions: d.services.split(",").filter((s) => s !== ""),
    enableModelRestriction: d.models !== "any",
    allowedModels: list("allowedModels", d.models === "allow" || d.models === "both"), restrictedModels: list("restrictedModels", d.models === "deny" || d.models === "both"),
    enableClientRestriction: d.clients === "some", allowedClients: d.clients === "some" ? (d.allowedClients ?? "").split(",").filter((c) => c !== "") : [],
    enforcement: d.enforcement, estimatePerRequest: d.estimatePerRequest?.trim() || null,
    alertAt: numbersOf(d.alertAt), alertExpiryDays: numbersOf(d.alertExpiryDays),
  };
  if (!create) body.name = d.name?.trim();
  for (const f of moneyFields) body[f] = money(d[f] ?? "");
  for (const f of countFields) body[f] = count(d[f] ?? "");
  for (const f of accountFields) body[f] = d[f]?.trim() || null;
  if (create && d.tokenLimit?.trim() === "") delete body.tokenLimit;
  return body as Schemas["KeyUpdate"];
}

/** byLine is a list of numbers by comma as a list by line, which the rules are for. */
const byLine = (text = "") => text.split(/[\s,]+/).join("\n");

const numbersOf = (text?: string) => listOf(byLine(text)).map(Number);

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
  for (const f of ["alertAt", "alertExpiryDays"]) add(f, check(t, f, byLine(d[f])));
  add("estimatePerRequest", check(t, "estimatePerRequest", d.estimatePerRequest ?? ""));
  if (d.models === "allow" || d.models === "both") add("allowedModels", check(t, "allowedModels", d.allowedModels ?? "", true));
  if (d.models === "deny" || d.models === "both") add("restrictedModels", check(t, "restrictedModels", d.restrictedModels ?? ""));
  if (d.expiresAt === half) add("expiresAt", t.rule.half);
  if (d.services === "") add("permissions", t.rule.required);
  if (d.clients === "some" && d.allowedClients === "") add("allowedClients", t.rule.required);
  return found;
}

/** Restrictions that the form shows as one choice and its lists: the choice hides lists that do not count, though the key may have them. */
const restrictions = [
  { shown: ["models", "allowedModels", "restrictedModels"], sent: ["enableModelRestriction", "allowedModels", "restrictedModels"] },
  { shown: ["clients", "allowedClients"], sent: ["enableClientRestriction", "allowedClients"] },
];

/**
 * changesOf are the fields of a key that a form would change. What was not touched is not sent, so that an amount keeps its last
 * digit, an expiry its second, and a hidden list its entries; a restriction that was touched becomes what is shown.
 */
export function changesOf(k: Key, before: Draft, now: Draft): Record<string, unknown> {
  const stored = k as Record<string, unknown>;
  const was = bodyOf(before, false) as Record<string, unknown>;
  const is = bodyOf(now, false) as Record<string, unknown>;
  const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
  const changed = (f: string) => {
    const restriction = restrictions.find((r) => r.sent.includes(f));
    if (!restriction) return !same(is[f], was[f]);
    return restriction.shown.some((s) => now[s] !== before[s]) && !same(is[f], stored[f]);
  };
  return Object.fromEntries(Object.entries(is).filter(([f]) => changed(f)));
}
