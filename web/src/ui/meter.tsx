// How much of a limit is used.
import { useFormat, useText } from "../i18n";
import { useNow } from "./basics";

export interface Limit {
  name: string;
  used: number;
  limit: number;
  reserved?: number;
  kind: "money" | "count";
  endsAt?: string | null;
}

/** limitsOf are the limits that a key has set, with what is used of each. */
export function limitsOf(k: KeyLimits): Limit[] {
  const windowed = k.rateLimitWindow > 0;
  const all: Limit[] = [
    { name: "dailyCost", used: k.dailyCost, limit: k.dailyCostLimit, reserved: k.reservedCost, kind: "money" },
    { name: "weeklyCost", used: k.weeklyCost, limit: k.weeklyCostLimit, reserved: k.reservedCost, kind: "money" },
    { name: "monthlyCost", used: k.monthlyCost, limit: k.monthlyCostLimit, reserved: k.reservedCost, kind: "money" },
    { name: "totalCost", used: k.totalCost, limit: k.totalCostLimit, reserved: k.reservedCost, kind: "money" },
    { name: "requests", used: k.currentWindowRequests, limit: windowed ? k.rateLimitRequests : 0, kind: "count", endsAt: k.windowEndTime },
    { name: "tokens", used: k.currentWindowTokens, limit: windowed ? k.tokenLimit : 0, reserved: k.reservedTokens, kind: "count", endsAt: k.windowEndTime },
    { name: "concurrency", used: k.currentConcurrency, limit: k.concurrencyLimit, kind: "count" },
  ];
  return all.filter((l) => l.limit > 0);
}

export interface KeyLimits {
  dailyCost: number; weeklyCost: number; monthlyCost: number; totalCost: number; reservedCost: number;
  dailyCostLimit: number; weeklyCostLimit: number; monthlyCostLimit: number; totalCostLimit: number;
  rateLimitWindow: number; rateLimitRequests: number; tokenLimit: number; concurrencyLimit: number;
  currentWindowRequests: number; currentWindowTokens: number; reservedTokens: number; currentConcurrency: number;
  windowEndTime: string | null;
}

/** tightest are limits in order of how much of each is used, the fullest first. */
export function tightest(limits: Limit[]): Limit[] {
  const share = (l: Limit) => (l.used + (l.reserved ?? 0)) / l.limit;
  return [...limits].sort((a, b) => share(b) - share(a));
}

/** LimitMeter is a bar that a screen reader reads as "$4.20 of $5.00". */
export function LimitMeter({ limit, compact }: { limit: Limit; compact?: boolean }) {
  const t = useText();
  const format = useFormat();
  const show = limit.kind === "money" ? format.money : format.compact;
  const share = Math.min(1, limit.used / limit.limit);
  const held = Math.min(1 - share, (limit.reserved ?? 0) / limit.limit);
  const tone = share >= 1 ? "full" : share >= 0.8 ? "near" : "";
  const name = (t.limits as Record<string, string>)[limit.name] ?? limit.name;
  const label = compact ? ((t.shortLimits as Record<string, string>)[limit.name] ?? name) : name;
  const text = t.ofLimit(show(limit.used), show(limit.limit));
  return (
    <div class={compact ? "limit compact" : "limit"}>
      <div class="limit-text">
        <span>
          {label} {compact && limit.endsAt && <Left to={limit.endsAt} />}
        </span>
        <span class="number">
          {text}
          {!compact && limit.reserved ? <span class="faint"> · {t.reserved(show(limit.reserved))}</span> : null}
        </span>
      </div>
      <div class={`meter ${tone}`} role="meter" aria-label={name} aria-valuemin={0} aria-valuemax={limit.limit} aria-valuenow={Math.min(limit.used, limit.limit)} aria-valuetext={text}>
        <span class="used" style={{ width: `${share * 100}%` }} />
        <span class="held" style={{ width: `${held * 100}%` }} />
      </div>
      {limit.endsAt && !compact && <Countdown to={limit.endsAt} />}
    </div>
  );
}

/** Left is the bare time until a window ends. */
function Left({ to }: { to: string }) {
  const format = useFormat();
  const left = (new Date(to).getTime() - useNow()) / 1000;
  return left > 0 ? <span class="countdown">{format.countdown(left)}</span> : null;
}

/** Countdown is the time until a window ends. */
export function Countdown({ to }: { to: string }) {
  const t = useText();
  const format = useFormat();
  const left = (new Date(to).getTime() - useNow()) / 1000;
  return <span class="countdown faint">{left > 0 ? t.windowEnds(format.countdown(left)) : t.windowOver}</span>;
}
