import { useQuery } from "@tanstack/preact-query";
import { Link } from "wouter-preact";
import { keyList, overview, report, unpriced } from "../api/queries";
import type { Schemas } from "../api/client";
import { useFormat, useText } from "../i18n";
import { useMayChange, useSession } from "../session";
import { dayBefore, todayIn } from "../days";
import { Card, Empty, Icon, Money, Page, reasonName, Shown, Time } from "../ui/basics";
import { CostByModel, modelSums } from "../ui/usage";

const chartDays = 30;

export function Overview() {
  const t = useText();
  const may = useMayChange();
  const { timezone } = useSession();
  const state = useQuery(overview());
  const today = state.data?.day ?? todayIn(timezone);
  const dates = { from: dayBefore(today, chartDays - 1), to: today };
  const byDay = useQuery(report({ ...dates, granularity: "day" }));
  const models = useQuery(report({ ...dates, granularity: "total", groupBy: ["model"], limit: 1000 }));
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
      <Shown of={byDay} lines={4}>
        {(r) => <Spend report={r} today={today} />}
      </Shown>
      <div class="columns">
        <Shown of={state}>{(o) => <Live of={o} />}</Shown>
        <Shown of={state}>{(o) => <Refusals of={o} />}</Shown>
        <Shown of={state}>{(o) => <TopKeys of={o} />}</Shown>
        <Shown of={models}>{(r) => <TopModels report={r} />}</Shown>
        <Expiring />
        <Unpriced />
      </div>
    </Page>
  );
}

/** Spend has its figures from sums of days, whatever the number of models, and its chart from as many rows as a page has. */
function Spend({ report: r, today }: { report: Schemas["UsageReport"]; today: string }) {
  const t = useText();
  const format = useFormat();
  const drawn = useQuery(report({ from: dayBefore(today, chartDays - 1), to: today, granularity: "day", groupBy: ["model"], limit: 1000 }));
  const sum = (from: string) => {
    const rows = r.data.filter((row) => row.period >= from);
    return { usd: rows.reduce((s, row) => s + row.costUsd, 0), requests: rows.reduce((s, row) => s + row.requests, 0) };
  };
  const spans = [
    { name: t.today, ...sum(today), test: "today" },
    { name: t.days7, ...sum(dayBefore(today, 6)), test: "days7" },
    { name: t.days30, usd: r.totals.costUsd, requests: r.totals.requests, test: "days30" },
  ];
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
      {r.totals.requests > 0 ? (
        <CostByModel title={t.overview.perDay} today={today} byDay={r} byModel={drawn.data} height={200} />
      ) : (
        <Empty title={t.overview.nothing}>{t.overview.nothingText}</Empty>
      )}
    </Card>
  );
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
      {of.topRefused.length > 0 && (
        <>
          <h3>{t.overview.mostRefused}</h3>
          <ul class="pairs">
            {of.topRefused.slice(0, 5).map((k) => (
              <li key={k.keyId}>
                <Link href={`/keys/${k.keyId}`}>{k.keyName}</Link>
                <span class="number">{format.integer(k.refusals)}</span>
              </li>
            ))}
          </ul>
        </>
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
