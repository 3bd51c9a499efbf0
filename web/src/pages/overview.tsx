import { useQuery } from "@tanstack/preact-query";
import { Link } from "wouter-preact";
import { keyList, overview, report, unpriced } from "../api/queries";
import type { Schemas } from "../api/client";
import { useFormat, useText } from "../i18n";
import { useMayChange } from "../session";
import { Card, Empty, Icon, Money, Page, Shown, Time } from "../ui/basics";
import { Bars, dayBefore, days, type Series } from "../ui/chart";

const chartDays = 30;
const chartModels = 5;

export function Overview() {
  const t = useText();
  const may = useMayChange();
  const state = useQuery(overview());
  const spend = useQuery(report({ granularity: "day", groupBy: ["model"], limit: 1000 }, 3_000));
  return (
    <Page
      title={t.overview.title}
      actions={
        may && (
          <Link class="button primary" href="/keys/new">
            <Icon name="plus" /> {t.keys.create}
          </Link>
        )
      }
    >
      <Shown of={spend} lines={4}>
        {(r) => <Spend report={r} today={state.data?.day} />}
      </Shown>
      <div class="columns">
        <Shown of={state}>{(o) => <Live of={o} />}</Shown>
        <Shown of={state}>{(o) => <Refusals of={o} />}</Shown>
        <Shown of={state}>{(o) => <TopKeys of={o} />}</Shown>
        <Shown of={spend}>{(r) => <TopModels report={r} />}</Shown>
        <Expiring />
        <Unpriced />
      </div>
    </Page>
  );
}

function Spend({ report, today }: { report: Schemas["UsageReport"]; today?: string }) {
  const t = useText();
  const format = useFormat();
  const last = today ?? report.data.at(-1)?.period ?? new Date().toISOString().slice(0, 10);
  const sum = (from: string) => {
    const rows = report.data.filter((r) => r.period >= from);
    return { usd: rows.reduce((s, r) => s + r.costUsd, 0), requests: rows.reduce((s, r) => s + r.requests, 0) };
  };
  const spans = [
    { name: t.today, ...sum(last), test: "today" },
    { name: t.days7, ...sum(dayBefore(last, 6)), test: "days7" },
    { name: t.days30, usd: report.totals.costUsd, requests: report.totals.requests, test: "days30" },
  ];
  const periods = days(dayBefore(last, chartDays - 1), last);
  return (
    <Card title={t.overview.spend}>
      <dl class="figures">
        {spans.map((s) => (
          <div key={s.test} data-test={`spend-${s.test}`}>
            <dt>{s.name}</dt>
            <dd>
              <Money usd={s.usd} />
            </dd>
            <dd class="faint">{t.overview.requestsIn(s.requests, format.compact(s.requests))}</dd>
          </div>
        ))}
      </dl>
      {report.totals.requests > 0 ? (
        <Bars title={t.overview.perDay} periods={periods} labels={periods.map(format.shortDay)} series={byModel(report, periods, t.overview.other)} money />
      ) : (
        <Empty title={t.overview.nothing}>{t.overview.nothingText}</Empty>
      )}
    </Card>
  );
}

/** byModel is the cost of the dearest models in each period, and of all others together. */
function byModel(report: Schemas["UsageReport"], periods: string[], other: string): Series[] {
  const place = new Map(periods.map((p, i) => [p, i]));
  const top = modelSums(report).slice(0, chartModels).map((m) => m.model);
  const names = [...top, other];
  const series = names.map((name) => ({ name, values: periods.map(() => 0) }));
  for (const row of report.data) {
    const at = place.get(row.period);
    const of = top.indexOf(row.model ?? "");
    const values = series[of < 0 ? top.length : of]!.values;
    if (at !== undefined) values[at] = values[at]! + row.costUsd;
  }
  return series.filter((s) => s.values.some((v) => v !== 0));
}

function modelSums(report: Schemas["UsageReport"]) {
  const sums = new Map<string, { model: string; usd: number; requests: number }>();
  for (const row of report.data) {
    const model = row.model ?? "";
    const sum = sums.get(model) ?? { model, usd: 0, requests: 0 };
    sums.set(model, { model, usd: sum.usd + row.costUsd, requests: sum.requests + row.requests });
  }
  return [...sums.values()].sort((a, b) => b.usd - a.usd || b.requests - a.requests);
}

function Live({ of }: { of: Schemas["Overview"] }) {
  const t = useText();
  const format = useFormat();
  return (
    <Card title={t.overview.live}>
      <p class="big" data-test="live">
        {format.integer(of.live.admissions)}
      </p>
      <p class="faint">
        {t.overview.admissions(of.live.admissions)}
        {of.live.reservedCost > 0 && <> · {t.overview.reservedCost(format.money(of.live.reservedCost))}</>}
      </p>
      <h3>{t.overview.keys}</h3>
      <ul class="chips">
        {(["active", "disabled", "expired"] as const).map((status) => (
          <li key={status}>
            <Link href={`/keys?status=${status}`}>
              {format.integer(of.keys[status])} {t.status[status].toLowerCase()}
            </Link>
          </li>
        ))}
      </ul>
    </Card>
  );
}

export function reasonName(t: ReturnType<typeof useText>, code: string): string {
  return (t.codes as Record<string, string>)[code] ?? code;
}

function Refusals({ of }: { of: Schemas["Overview"] }) {
  const t = useText();
  const format = useFormat();
  return (
    <Card title={t.overview.refusals}>
      {of.refusals.length === 0 ? (
        <p class="faint">{t.overview.noRefusals}</p>
      ) : (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">{t.reason}</th>
              <th scope="col" class="number">
                {t.today}
              </th>
              <th scope="col" class="number">
                {t.days7}
              </th>
            </tr>
          </thead>
          <tbody>
            {of.refusals.map((r) => (
              <tr key={r.code + r.letThrough}>
                <th scope="row" title={r.code}>
                  {reasonName(t, r.code)} {r.letThrough && <span class="faint">({t.letThrough})</span>}
                </th>
                <td class="number">{format.integer(r.today)}</td>
                <td class="number">{format.integer(r.week)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Card>
  );
}

function TopKeys({ of }: { of: Schemas["Overview"] }) {
  const t = useText();
  const list = of.topToday.length > 0 ? of.topToday : of.topMonth;
  const period = of.topToday.length > 0 ? t.today : t.month;
  return (
    <Card title={t.overview.topKeys} actions={<span class="faint">{period}</span>}>
      {list.length === 0 ? <p class="faint">{t.overview.nothing}</p> : <Ranking rows={list.slice(0, 8).map((k) => ({ id: k.keyId, name: k.keyName, href: `/keys/${k.keyId}`, usd: k.costUsd }))} />}
    </Card>
  );
}

function TopModels({ report }: { report: Schemas["UsageReport"] }) {
  const t = useText();
  const models = modelSums(report).slice(0, 8);
  return (
    <Card title={t.overview.topModels}>
      {models.length === 0 ? <p class="faint">{t.overview.nothing}</p> : <Ranking rows={models.map((m) => ({ id: m.model, name: m.model, href: `/reports?model=${encodeURIComponent(m.model)}`, usd: m.usd }))} />}
    </Card>
  );
}

export function Ranking({ rows }: { rows: { id: string; name: string; href?: string; usd: number }[] }) {
  const most = Math.max(...rows.map((r) => r.usd), 0);
  return (
    <ol class="ranking">
      {rows.map((r) => (
        <li key={r.id}>
          <span class="rank-name">{r.href ? <Link href={r.href}>{r.name}</Link> : r.name}</span>
          <span class="number">
            <Money usd={r.usd} />
          </span>
          <span class="rank-bar" aria-hidden="true">
            <span style={{ width: `${most > 0 ? (r.usd / most) * 100 : 0}%` }} />
          </span>
        </li>
      ))}
    </ol>
  );
}

function Expiring() {
  const t = useText();
  const list = useQuery(keyList({ status: "active", sort: "expiresAt", limit: 6 }));
  const soon = Date.now() + 30 * 86_400_000;
  return (
    <Card title={t.overview.expiring}>
      <Shown of={list}>
        {({ data }) => {
          const ending = data.filter((k) => k.expiresAt && new Date(k.expiresAt).getTime() < soon);
          if (ending.length === 0) return <p class="faint">{t.overview.noneExpiring}</p>;
          return (
            <ul class="pairs">
              {ending.map((k) => (
                <li key={k.id}>
                  <Link href={`/keys/${k.id}`}>{k.name}</Link>
                  <Time iso={k.expiresAt} />
                </li>
              ))}
            </ul>
          );
        }}
      </Shown>
    </Card>
  );
}

function Unpriced() {
  const t = useText();
  const format = useFormat();
  const list = useQuery(unpriced());
  return (
    <Card title={t.overview.unpriced}>
      <Shown of={list}>
        {({ data }) =>
          data.length === 0 ? (
            <p class="faint">{t.overview.allPriced}</p>
          ) : (
            <>
              <p class="faint">{t.overview.unpricedText}</p>
              <ul class="pairs">
                {data.slice(0, 6).map((m) => (
                  <li key={m.model}>
                    <Link href="/prices">{m.model}</Link>
                    <span class="faint">{t.overview.requestsIn(m.requests, format.compact(m.requests))}</span>
                  </li>
                ))}
              </ul>
            </>
          )
        }
      </Shown>
    </Card>
  );
}
