import { useQuery } from "@tanstack/preact-query";
import { Link } from "wouter-preact";
import { accounts, accountUsage, keyList, report } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { Card, Empty, Money, Page, Shown, Status, Time } from "../ui/basics";
import { Bars, dayBefore, days } from "../ui/chart";
import { Pager, Table, usePages } from "../ui/table";
import { Models } from "./key";

export function Accounts() {
  const t = useText();
  const format = useFormat();
  const pages = usePages("");
  const list = useQuery(accounts({ cursor: pages.cursor, limit: 50 }));
  return (
    <Page title={t.accounts.title} lead={t.accounts.lead}>
      <Card class="flush">
        <Shown of={list} lines={6}>
          {({ data, nextCursor }) =>
            data.length === 0 && pages.page === 1 ? (
              <Empty title={t.accounts.empty}>{t.accounts.emptyText}</Empty>
            ) : (
              <>
                <Table
                  caption={t.accounts.title}
                  rows={data}
                  rowKey={(a) => a.accountId}
                  stale={list.isPlaceholderData}
                  columns={[
                    { id: "id", head: t.account, first: true, cell: (a) => <Link href={`/accounts/${encodeURIComponent(a.accountId)}`}>{a.accountId}</Link> },
                    { id: "tokens", head: t.accounts.tokensToday, number: true, cell: (a) => format.compact(a.daily.allTokens) },
                    { id: "today", head: t.accounts.costToday, number: true, cell: (a) => <Money usd={a.daily.costUsd} /> },
                    { id: "month", head: t.accounts.costMonth, number: true, wide: true, cell: (a) => <Money usd={a.monthly.costUsd} /> },
                    { id: "total", head: t.accounts.costTotal, number: true, wide: true, cell: (a) => <Money usd={a.total.costUsd} /> },
                    { id: "requests", head: t.requests, number: true, wide: true, cell: (a) => format.compact(a.total.requests) },
                    { id: "last", head: t.lastUsed, wide: true, cell: (a) => <Time iso={a.lastUsedAt} /> },
                  ]}
                />
                <Pager pages={pages} nextCursor={nextCursor} stale={list.isPlaceholderData} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  );
}

export function Account({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const usage = useQuery(accountUsage(id));
  const byDay = useQuery(report({ accountId: id, granularity: "day", groupBy: ["account"] }));
  const keys = useQuery(keyList({ accountId: id, limit: 50, sort: "-cost" }));
  return (
    <Page title={id} back={{ href: "/accounts", text: t.accounts.title }}>
      <Shown of={usage} lines={6}>
        {(u) => (
          <>
            <Card title={t.keyPage.usage}>
              <dl class="figures">
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
            </Card>
            <div class="columns wide-first">
              <Card title={t.accounts.byDay}>
                <Shown of={byDay}>
                  {(r) => {
                    const to = u.asOf.slice(0, 10);
                    const periods = days(dayBefore(to, 29), to);
                    const costs = new Map(r.data.map((row) => [row.period, row.costUsd]));
                    return <Bars title={t.accounts.byDay} periods={periods} labels={periods.map(format.shortDay)} series={[{ name: t.cost, values: periods.map((p) => costs.get(p) ?? 0) }]} money height={180} />;
                  }}
                </Shown>
              </Card>
              <Card title={t.accounts.byModel}>
                <Models models={u.models} />
              </Card>
            </div>
            <Card title={t.accounts.keys}>
              <Shown of={keys}>
                {({ data }) =>
                  data.length === 0 ? (
                    <p class="faint">{t.accounts.noKeys}</p>
                  ) : (
                    <Table
                      caption={t.accounts.keys}
                      rows={data}
                      rowKey={(k) => k.id}
                      columns={[
                        { id: "name", head: t.name, first: true, cell: (k) => <Link href={`/keys/${k.id}`}>{k.name}</Link> },
                        { id: "status", head: t.statusName, cell: (k) => <Status status={k.status} /> },
                        { id: "cost", head: t.cost, number: true, cell: (k) => <Money usd={k.totalCost} /> },
                      ]}
                    />
                  )
                }
              </Shown>
            </Card>
          </>
        )}
      </Shown>
    </Page>
  );
}
