// The small parts that every page is made of.
import { useEffect, useId, useRef, useState } from "preact/hooks";
import type { ComponentChildren, JSX } from "preact";
import { Link, useLocation } from "wouter-preact";
import { Lost, Problem } from "../api/client";
import { useFormat, useText } from "../i18n";
import type { Text } from "../i18n/en";

export function classes(...names: (string | false | undefined)[]) {
  return names.filter(Boolean).join(" ");
}

/** Page is a page's head and body; its title is the document's, too. */
export function Page({ title, lead, actions, back, children }: { title: string; lead?: ComponentChildren; actions?: ComponentChildren; back?: { href: string; text: string }; children: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null);
  const [path] = useLocation();
  useEffect(() => {
    document.title = `${title} · keyledger`;
  }, [title]);
  // Who came by a link is taken to the new page's head, as by a page that was loaded.
  useEffect(() => {
    // A field that wants the focus keeps it.
    const at = document.activeElement;
    if (at === document.body || (at?.closest("nav, main") && !at.matches("main input, main textarea"))) heading.current?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, [path]);
  return (
    <>
      <header class="page-head">
        <div>
          {back && (
            <Link class="back" href={back.href}>
              <Icon name="back" /> {back.text}
            </Link>
          )}
          <h1 ref={heading} tabIndex={-1}>
            {title}
          </h1>
          {lead && <p class="lead">{lead}</p>}
        </div>
        {actions && <div class="actions">{actions}</div>}
      </header>
      {children}
    </>
  );
}

export function Card({ title, actions, children, class: extra, id }: { title?: ComponentChildren; actions?: ComponentChildren; children: ComponentChildren; class?: string; id?: string }) {
  const own = useId();
  return (
    <section class={classes("card", extra)} id={id} aria-labelledby={title ? own : undefined}>
      {(title || actions) && (
        <header class="card-head">
          {title && <h2 id={own}>{title}</h2>}
          {actions && <div class="actions">{actions}</div>}
        </header>
      )}
      {children}
    </section>
  );
}

/** Facts are names with their values, a row each. */
export function Facts({ of }: { of: [name: string, value: ComponentChildren][] }) {
  return (
    <dl class="settings">
      {of.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

type ButtonProps = JSX.ButtonHTMLAttributes<HTMLButtonElement> & { kind?: "primary" | "plain" | "danger" | "quiet"; busy?: boolean };

export function Button({ kind = "plain", busy, children, class: extra, disabled, ...rest }: ButtonProps) {
  return (
    <button type="button" {...rest} disabled={disabled || busy} aria-busy={busy || undefined} class={classes("button", kind, extra as string)}>
      {children}
    </button>
  );
}

const paths = {
  overview: "M3 13h4v6H3zM10 5h4v14h-4zM17 9h4v10h-4z",
  keys: "M14.5 3a6.5 6.5 0 0 0-6.2 8.5L3 17v4h4v-2h2v-2h2l1.5-1.5A6.5 6.5 0 1 0 14.500 3zM16.500 8.500h.01",
  accounts: "M4 7h16M4 12h16M4 17h16",
  prices: "M12 3v18M16.500 7.500c-1-1.300-2.500-2-4.500-2-2.500 0-4.500 1.200-4.500 3.200 0 4.500 9.500 2 9.500 6.600 0 2-2 3.200-5 3.200-2.200 0-4-.8-5-2.300",
  reports: "M4 20V4M4 20h16M8 16l4-5 3 3 5-7",
  tokens: "M12 3l8 3v6c0 5-3.500 8-8 9-4.500-1-8-4-8-9V6z",
  webhooks: "M12 4a5 5 0 0 0-5 5v4l-2 3h14l-2-3V9a5 5 0 0 0-5-5zM10 19h4",
  relay: "M4 8h13l-3-3M20 16H7l3 3",
  audit: "M6 3h9l4 4v14H6zM9 11h7M9 15h7",
  settings: "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM12 2v3M12 19v3M4.200 7l2.600 1.500M17.200 15.500l2.600 1.500M4.200 17l2.600-1.500M17.200 8.500L19.800 7",
  back: "M15 5l-7 7 7 7",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  done: "M4 12l5 5L20 6",
  menu: "M4 6h16M4 12h16M4 18h16",
  close: "M5 5l14 14M19 5L5 19",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  warn: "M12 3l10 18H2zM12 10v5M12 18h.01",
  plus: "M12 5v14M5 12h14",
  next: "M9 5l7 7-7 7",
  download: "M12 3v12M7 10l5 5 5-5M4 20h16",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l5 5",
} as const;
export type IconName = keyof typeof paths;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={paths[name]} />
    </svg>
  );
}

export type Tone = "good" | "warn" | "bad" | "neutral";

export function Badge({ tone = "neutral", children }: { tone?: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

const statusTones: Record<string, Tone> = { active: "good", disabled: "neutral", expired: "warn", deleted: "bad", revoked: "bad", ready: "good", degraded: "warn", unready: "bad" };

export function Status({ status }: { status: string }) {
  const t = useText();
  return <Badge tone={statusTones[status]}>{(t.status as Record<string, string>)[status] ?? status}</Badge>;
}

/** Time is an instant, told relative to now, with the exact time at hand. */
export function Time({ iso, fallback, exact }: { iso: string | null | undefined; fallback?: string; exact?: boolean }) {
  const format = useFormat();
  const now = useNow(10_000);
  if (!iso) return <span class="faint">{fallback ?? "–"}</span>;
  const full = format.timeToSecond(iso);
  return (
    <time dateTime={iso} title={full}>
      {exact ? full : format.relative(iso, now)}
    </time>
  );
}

export function Money({ usd }: { usd: number }) {
  const format = useFormat();
  return <span title={format.exactMoney(usd)}>{format.money(usd)}</span>;
}

/** Copy copies a text and says that it did. */
export function Copy({ text, label, onCopied }: { text: string; label?: string; onCopied?: () => void }) {
  const t = useText();
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard without TLS: the old way.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    setDone(true);
    onCopied?.();
    setTimeout(() => setDone(false), 2000);
  };
  return (
    <Button kind="plain" class="copy" onClick={copy} aria-label={label ? undefined : t.copy}>
      <Icon name={done ? "done" : "copy"} /> {done ? t.copied : (label ?? t.copy)}
      <span class="sr" role="status">
        {done ? t.copied : ""}
      </span>
    </Button>
  );
}

export function Loading({ lines = 3 }: { lines?: number }) {
  const t = useText();
  return (
    <div class="loading" role="status" aria-label={t.loading}>
      {Array.from({ length: lines }, (_, i) => (
        <span key={i} class="bone" />
      ))}
    </div>
  );
}

export function Empty({ title, children, action }: { title: string; children?: ComponentChildren; action?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <p>{children}</p>}
      {action}
    </div>
  );
}

/** messageOf says what went wrong, in the language in use where the service did not say it. */
export function messageOf(t: Text, error: unknown): string {
  if (error instanceof Lost) return t.error.lostText;
  return error instanceof Error ? error.message : String(error);
}

/** FormError is what went wrong in a form or dialog; nothing while nothing has. */
export function FormError({ error }: { error: unknown }) {
  const t = useText();
  return (
    <div role="alert">
      {error ? <p class="form-error">{messageOf(t, error)}</p> : null}
    </div>
  );
}

/** reasonName is a code of the service in words. */
export function reasonName(t: Text, code: string): string {
  return (t.codes as Record<string, string>)[code] ?? code;
}

/** Failed tells why something cannot be shown, and what to do about it. */
export function Failed({ error, retry }: { error: unknown; retry?: () => void }) {
  const t = useText();
  if (error instanceof Problem && error.status === 403) return <Empty title={t.error.forbidden}>{t.error.forbiddenText}</Empty>;
  if (error instanceof Problem && error.status === 404) return <Empty title={t.error.notFound}>{error.message}</Empty>;
  const lost = error instanceof Lost;
  return (
    <div class="failed" role="alert">
      <p class="empty-title">
        <Icon name="warn" /> {lost ? t.error.lost : t.error.failed}
      </p>
      <p>{messageOf(t, error)}</p>
      {error instanceof Problem && error.requestId && (
        <p class="faint">
          {t.error.requestId} <code>{error.requestId}</code>
        </p>
      )}
      {retry && <Button onClick={retry}>{t.retry}</Button>}
    </div>
  );
}

/** Shown is a query's answer, or its state while there is none. */
export function Shown<T>({ of, lines, children }: { of: { data?: T | undefined; error: unknown; refetch: () => unknown }; lines?: number; children: (data: T) => ComponentChildren }) {
  if (of.data !== undefined) return <>{children(of.data)}</>;
  if (of.error) return <Failed error={of.error} retry={() => void of.refetch()} />;
  return <Loading lines={lines} />;
}

export function useNow(every = 1000): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => document.visibilityState === "visible" && setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}
