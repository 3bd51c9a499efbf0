// What has happened to a key: its latest requests, refusals, secrets and changes.
import { useQuery } from "@tanstack/preact-query";
import { Link } from "wouter-preact";
import { events, keyAudit, keyRefusals, keySecrets } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { Badge, Card, Money, reasonName, Shown, Time } from "../ui/basics";
import { Pager, Table, usePages } from "../ui/table";
import { Changes } from "./audit";

export function Refusals({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const list = useQuery(keyRefusals(id));
  return (
    <Card title={t.keyPage.refusals}>
      <Shown of={list}>
        {({ data }) =>
          data.length === 0 ? (
            <p class="faint">{t.keyPage.noRefusals}</p>
          ) : (
            <ul class="pairs scroll-part">
              {data.map((r) => (
                <li key={r.day + r.code + r.letThrough}>
                  <span title={r.code}>
                    {reasonName(t, r.code)} {r.letThrough && <span class="faint">({t.letThrough})</span>}
                  </span>
                  <span>
                    {format.integer(r.refusals)} <span class="faint">{format.shortDay(r.day)}</span>
                  </span>
                </li>
              ))}
            </ul>
          )
        }
      </Shown>
    </Card>
  );
}

const ledgerRows = 10;
const shownChanges = 20;

export function Events({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const pages = usePages(id);
  const list = useQuery(events({ keyId: id, limit: ledgerRows, cursor: pages.cursor }));
  const kinds: Record<string, string> = { adjustment: t.keyPage.adjustment, opening: t.keyPage.opening };
  return (
    <Card title={t.keyPage.ledger}>
      <Shown of={list}>
        {({ data, nextCursor }) =>
          data.length === 0 ? (
            <p class="faint">{t.keyPage.noEvents}</p>
          ) : (
            <>
              <Table
                caption={t.keyPage.ledger}
                rows={data}
                rowKey={(e) => e.id}
                columns={[
                  { id: "at", head: t.keyPage.at, first: true, cell: (e) => <Time iso={e.occurredAt} /> },
                  { id: "model", head: t.model, cell: (e) => e.model },
                  { id: "account", head: t.account, wide: true, cell: (e) => e.accountId ?? "–" },
                  { id: "in", head: t.keyPage.input, number: true, wide: true, cell: (e) => format.integer(e.inputTokens) },
                  { id: "out", head: t.keyPage.output, number: true, wide: true, cell: (e) => format.integer(e.outputTokens) },
                  { id: "write", head: t.keyPage.cacheWrite, number: true, wide: true, cell: (e) => format.integer(e.cacheCreateTokens) },
                  { id: "read", head: t.keyPage.cacheRead, number: true, wide: true, cell: (e) => format.integer(e.cacheReadTokens) },
                  {
                    id: "cost",
                    head: t.cost,
                    number: true,
                    cell: (e) => (
                      <>
                        {e.estimated && <Badge tone="warn">{t.keyPage.estimated}</Badge>} {e.kind !== "usage" && <Badge>{kinds[e.kind] ?? e.kind}</Badge>} <Money usd={e.costUsd} />
                      </>
                    ),
                  },
                ]}
              />
              <Pager pages={pages} nextCursor={nextCursor} stale={list.isPlaceholderData} />
            </>
          )
        }
      </Shown>
    </Card>
  );
}

export function Secrets({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const list = useQuery(keySecrets(id));
  return (
    <Card title={t.keyPage.secrets}>
      <Shown of={list}>
        {({ data }) => (
          <ul class="pairs">
            {data.map((s) => (
              <li key={s.createdAt}>
                <span>
                  <code>{s.hint}</code> <Time iso={s.createdAt} />
                </span>
                {s.expiresAt ? <Badge tone="warn">{t.keyPage.grace(format.time(s.expiresAt))}</Badge> : <Badge tone="good">{t.keyPage.current}</Badge>}
              </li>
            ))}
          </ul>
        )}
      </Shown>
    </Card>
  );
}

export function Audit({ id }: { id: string }) {
  const t = useText();
  const list = useQuery(keyAudit(id));
  return (
    <Card title={t.keyPage.audit} actions={<Link href={`/audit?id=${id}`}>{t.keyPage.allChanges}</Link>}>
      <Shown of={list}>
        {({ data }) =>
          data.length === 0 ? (
            <p class="faint">{t.keyPage.noAudit}</p>
          ) : (
            <Table
              caption={t.keyPage.audit}
              rows={data.slice(0, shownChanges)}
              rowKey={(e) => String(e.id)}
              columns={[
                { id: "at", head: t.audit.when, first: true, cell: (e) => <Time iso={e.at} /> },
                { id: "actor", head: t.audit.actor, cell: (e) => e.actor },
                { id: "action", head: t.audit.action, cell: (e) => <code>{e.action}</code> },
                { id: "change", head: t.audit.change, cell: (e) => <Changes entry={e} /> },
              ]}
            />
          )
        }
      </Shown>
    </Card>
  );
}
