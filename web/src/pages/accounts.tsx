import { useQuery } from "@tanstack/preact-query";
import { Link } from "wouter-preact";
import { accounts, accountUsage, keyList, report } from "../api/queries";
import { todayIn } from "../days";
import { useFormat, useText } from "../i18n";
import { useSession } from "../session";
import { Card, Empty, Money, Page, Shown, Status, Time } from "../ui/basics";
import { Pager, Table, usePages } from "../ui/table";
import { CostByDay, Figures, Models } from "../ui/usage";

/** accountPath is where an account is; an id may hold whatever a path may not. */
export const accountPath = (id: string) => `/accounts/one?${new URLSearchParams({ id })}`;

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
                    { id: "id", head: t.account, first: true, cell: (a) => <Link href={accountPath(a.accountId)}>{a.accountId}</Link> },
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
  const { timezone } = useSession();
  const usage = useQuery(accountUsage(id));
  const byDay = useQuery(report({ accountId: id, granularity: "day", groupBy: ["account"] }));
  const keys = useQuery(keyList({ accountId: id, limit: 50, sort: "-cost" }));
  return (
    <Page title={id} back={{ href: "/accounts", text: t.accounts.title }}>
      <Shown of={usage} lines={6}>
        {(u) => (
          <>
            <Card title={t.keyPage.usage}>
              <Figures of={u} />
            </Card>
            <div class="columns wide-first">
              <Card title={t.accounts.byDay}>
                <Shown of={byDay}>{(r) => <CostByDay title={t.accounts.byDay} today={todayIn(timezone, new Date(u.asOf))} rows={r.data.map((row) => ({ day: row.period, costUsd: row.costUsd }))} />}</Shown>
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
