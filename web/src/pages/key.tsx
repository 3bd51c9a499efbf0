import { useQuery } from "@tanstack/preact-query";
import { Link } from "wouter-preact";
import type { Key, Schemas } from "../api/client";
import { key, keyUsage, report } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { useMayChange } from "../session";
import { Card, Failed, Loading, Money, Page, Shown, Status, Time } from "../ui/basics";
import { Bars, dayBefore, days } from "../ui/chart";
import { LimitMeter, limitsOf } from "../ui/meter";
import { Table } from "../ui/table";
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
  const format = useFormat();
  const usage = useQuery(keyUsage(id));
  return (
    <Card title={t.keyPage.usage}>
      <Shown of={usage}>
        {(u) => (
          <dl class="figures" data-test="usage">
            {([[t.today, u.daily], [t.month, u.monthly], [t.total, u.total]] as const).map(([name, block]) => (
              <div key={name}>
                <dt>{name}</dt>
                <dd>
                  <Money usd={block.costUsd} />
                </dd>
                <dd class="faint">
                  {t.overview.requestsIn(block.requests, format.compact(block.requests))}
                  <br />
                  {format.compact(block.allTokens)} {t.tokens}
                </dd>
              </div>
            ))}
          </dl>
        )}
      </Shown>
    </Card>
  );
}

function Charts({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const usage = useQuery(keyUsage(id));
  const byDay = useQuery(report({ keyId: id, granularity: "day" }));
  return (
    <div class="columns wide-first">
      <Card title={t.keyPage.byDay}>
        <Shown of={byDay}>
          {(r) => {
            if (r.totals.requests === 0) return <p class="faint">{t.keyPage.noUsage}</p>;
            const last = r.data.at(-1)!.period;
            const today = usage.data ? usage.data.asOf.slice(0, 10) : last;
            const to = today > last ? today : last;
            const periods = days(dayBefore(to, 29), to);
            const costs = new Map(r.data.map((row) => [row.period, row.costUsd]));
            return <Bars title={t.keyPage.byDay} periods={periods} labels={periods.map(format.shortDay)} series={[{ name: t.cost, values: periods.map((p) => costs.get(p) ?? 0) }]} money height={180} />;
          }}
        </Shown>
      </Card>
      <Card title={t.keyPage.byModel}>
        <Shown of={usage}>{(u) => <Models models={u.models} />}</Shown>
      </Card>
    </div>
  );
}

export function Models({ models }: { models: Schemas["Stats"]["models"] }) {
  const t = useText();
  const format = useFormat();
  if (models.length === 0) return <p class="faint">{t.keyPage.noUsage}</p>;
  return (
    <Table
      caption={t.keyPage.byModel}
      rows={models}
      rowKey={(m) => m.model}
      columns={[
        { id: "model", head: t.model, first: true, cell: (m) => m.model },
        { id: "requests", head: t.requests, number: true, cell: (m) => format.compact(m.requests) },
        { id: "tokens", head: t.tokens, number: true, wide: true, cell: (m) => format.compact(m.allTokens) },
        { id: "cost", head: t.cost, number: true, cell: (m) => <Money usd={m.costUsd} /> },
      ]}
    />
  );
}

function Settings({ k }: { k: Key }) {
  const t = useText();
  const format = useFormat();
  const money = (usd: number) => (usd > 0 ? format.money(usd) : t.none);
  const count = (n: number) => (n > 0 ? format.integer(n) : t.none);
  const accounts = [k.claudeAccountId, k.claudeConsoleAccountId, k.geminiAccountId, k.openaiAccountId, k.bedrockAccountId].filter((a) => a !== null);
  const models = !k.enableModelRestriction ? t.form.anyModel : k.allowedModels.length > 0 ? k.allowedModels.join(", ") : t.me.except(k.restrictedModels.join(", "));
  const rows: [string, preact.ComponentChildren][] = [
    [t.form.daily, money(k.dailyCostLimit)],
    [t.form.weekly, money(k.weeklyCostLimit)],
    [t.form.monthly, money(k.monthlyCostLimit)],
    [t.form.totalLimit, money(k.totalCostLimit)],
    [t.form.window, k.rateLimitWindow > 0 ? `${k.rateLimitWindow} ${t.form.minutes}` : t.none],
    [t.form.requests, count(k.rateLimitRequests)],
    [t.form.tokens, count(k.tokenLimit)],
    [t.form.concurrency, count(k.concurrencyLimit)],
    [t.form.services, k.permissions.includes("all") ? t.form.allServices : k.permissions.join(", ")],
    [t.form.models, models],
    [t.form.clients, k.enableClientRestriction && k.allowedClients.length > 0 ? k.allowedClients.join(", ") : t.form.anyClient],
    [t.form.upstream, accounts.length > 0 ? accounts.join(", ") : t.all],
    [t.form.estimate, k.estimatePerRequest === null ? "–" : format.exactMoney(k.estimatePerRequest)],
    [t.form.enforcement, k.enforcement === "observe" ? t.form.observe : t.form.enforce],
    [t.form.tags, k.tags.length > 0 ? k.tags.join(", ") : t.none],
    [t.expires, <Time iso={k.expiresAt} fallback={t.never} exact />],
    [t.created, <><Time iso={k.createdAt} exact /> · {k.createdBy}</>],
    ["ID", <code>{k.id}</code>],
  ];
  return (
    <Card title={t.keyPage.details}>
      <dl class="settings">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </Card>
  );
}
