import { useQuery } from "@tanstack/preact-query";
import type { ComponentChildren } from "preact";
import { Link } from "wouter-preact";
import type { Key } from "../api/client";
import { key, keyUsage, report } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { todayIn } from "../days";
import { useMayChange, useSession } from "../session";
import { Card, Facts, Failed, Loading, Page, Shown, Status, Time } from "../ui/basics";
import { LimitMeter, limitsOf } from "../ui/meter";
import { CostByModel, Figures, Models, restrictions } from "../ui/usage";
import { Explain } from "./explain";
import { Danger, LiveAdmissions, Restore, Rotate } from "./keyactions";
import { Audit, Events, Refusals, Secrets } from "./keyhistory";

export function KeyPage({ id }: { id: string }) {
  const t = useText();
  const may = useMayChange();
  const asked = useQuery(key(id));
  const back = { href: "/keys", text: t.keys.title };
  if (!asked.data) {
    return (
      <Page title={t.key} back={back}>
        {asked.error ? <Failed error={asked.error} retry={() => void asked.refetch()} /> : <Loading lines={6} />}
      </Page>
    );
  }
  const k = asked.data;
  const live = k.status !== "deleted";
  return (
    <Page
      title={k.name}
      back={back}
      lead={
        <>
          <Status status={k.status} /> <code>{k.keyHint}</code> {k.description && <span>{k.description}</span>}
        </>
      }
      actions={
        may && live ? (
          <>
            <Rotate k={k} />
            <Link class="button primary" href={`/keys/${id}/edit`}>
              {t.keyPage.edit}
            </Link>
          </>
        ) : may ? (
          <Restore id={id} />
        ) : undefined
      }
    >
      {!live && <p class="banner">{t.keyPage.isDeleted}</p>}
      <div class="columns">
        <Limits k={k} />
        <Usage id={id} />
      </div>
      <Charts id={id} />
      <LiveAdmissions id={id} />
      {live && <Explain k={k} />}
      <Events id={id} />
      <div class="columns">
        <Settings k={k} />
        <div class="stack">
          <Secrets id={id} />
          <Refusals id={id} />
        </div>
      </div>
      <Audit id={id} />
      {may && <Danger k={k} />}
    </Page>
  );
}

function Limits({ k }: { k: Key }) {
  const t = useText();
  const may = useMayChange();
  const limits = limitsOf(k);
  return (
    <Card title={t.keyPage.limits}>
      {k.enforcement === "observe" && limits.length > 0 && <p class="banner">{t.keyPage.observed}</p>}
      {limits.length === 0 ? (
        <p class="faint">
          {t.keyPage.noLimits} {may && k.status !== "deleted" && <Link href={`/keys/${k.id}/edit`}>{t.keyPage.addLimits}</Link>}
        </p>
      ) : (
        <div class="limits" data-test="limits">
          {limits.map((l) => (
            <LimitMeter key={l.name} limit={l} />
          ))}
        </div>
      )}
    </Card>
  );
}

function Usage({ id }: { id: string }) {
  const t = useText();
  const usage = useQuery(keyUsage(id));
  return (
    <Card title={t.keyPage.usage}>
      <Shown of={usage}>{(u) => <Figures of={u} />}</Shown>
    </Card>
  );
}

function Charts({ id }: { id: string }) {
  const t = useText();
  const { timezone } = useSession();
  const usage = useQuery(keyUsage(id));
  const byDay = useQuery(report({ keyId: id, granularity: "day" }));
  const byModel = useQuery(report({ keyId: id, granularity: "day", groupBy: ["model"], limit: 1000 }));
  return (
    <div class="columns wide-first">
      <Card title={t.keyPage.byDay}>
        <Shown of={byDay}>
          {(r) => (r.totals.requests === 0 ? <p class="faint">{t.keyPage.noUsage}</p> : <CostByModel title={t.keyPage.byDay} today={todayIn(timezone)} byDay={r} byModel={byModel.data} height={200} />)}
        </Shown>
      </Card>
      <Card title={t.keyPage.byModel}>
        <Shown of={usage}>{(u) => <Models models={u.models} />}</Shown>
      </Card>
    </div>
  );
}

function Settings({ k }: { k: Key }) {
  const t = useText();
  const format = useFormat();
  const money = (usd: number) => (usd > 0 ? format.money(usd) : t.none);
  const count = (n: number) => (n > 0 ? format.integer(n) : t.none);
  const accounts = [k.claudeAccountId, k.claudeConsoleAccountId, k.geminiAccountId, k.openaiAccountId, k.bedrockAccountId].filter((a) => a !== null);
  const rows: [string, ComponentChildren][] = [
    [t.form.daily, money(k.dailyCostLimit)],
    [t.form.weekly, money(k.weeklyCostLimit)],
    [t.form.monthly, money(k.monthlyCostLimit)],
    [t.form.totalLimit, money(k.totalCostLimit)],
    [t.form.window, k.rateLimitWindow > 0 ? `${k.rateLimitWindow} ${t.form.minutes}` : t.none],
    [t.form.requests, count(k.rateLimitRequests)],
    [t.form.tokens, count(k.tokenLimit)],
    [t.form.concurrency, count(k.concurrencyLimit)],
    ...restrictions(t, k),
    [t.form.upstream, accounts.length > 0 ? accounts.join(", ") : t.all],
    [t.form.estimate, k.estimatePerRequest === null ? "–" : format.exactMoney(k.estimatePerRequest)],
    [t.form.enforcement, k.enforcement === "observe" ? t.form.observe : t.form.enforce],
    [t.form.alertAt, k.alertAt.length > 0 ? k.alertAt.map((n) => `${n} %`).join(", ") : t.none],
    [t.form.alertExpiryDays, k.alertExpiryDays.join(", ") || t.none],
    [t.form.tags, k.tags.length > 0 ? k.tags.join(", ") : t.none],
    [t.expires, <Time iso={k.expiresAt} fallback={t.never} exact />],
    [t.created, <><Time iso={k.createdAt} exact /> · {k.createdBy}</>],
    ["ID", <code>{k.id}</code>],
  ];
  return (
    <Card title={t.keyPage.details}>
      <Facts of={rows} />
    </Card>
  );
}
