import { useQuery } from "@tanstack/preact-query";
import { Link } from "wouter-preact";
import { useAddress } from "../address";
import type { Schemas } from "../api/client";
import { audit } from "../api/queries";
import { useText } from "../i18n";
import { Card, Empty, Page, Shown, Time } from "../ui/basics";
import { Input, Select } from "../ui/form";
import { Pager, Table, usePages } from "../ui/table";

type Kind = NonNullable<Parameters<typeof audit>[0]["targetType"]>;
const kinds: Kind[] = ["key", "secret", "token", "prices", "event", "ledger", "rollups", "webhook"];

export function Audit() {
  const t = useText();
  const [said, set] = useAddress();
  const asked = { targetType: (said("kind") as Kind) || undefined, actor: said("actor") || undefined, targetId: said("id") || undefined };
  const pages = usePages(JSON.stringify(asked));
  const list = useQuery(audit({ ...asked, cursor: pages.cursor, limit: 50 }));
  return (
    <Page title={t.audit.title} lead={t.audit.lead}>
      <div class="filters">
        <Select label={<span class="sr">{t.audit.target}</span>} value={asked.targetType ?? ""} onChange={(kind) => set({ kind })} options={[{ value: "", text: t.audit.anyKind }, ...kinds.map((k) => ({ value: k, text: t.audit.kinds[k] }))]} />
        <Input label={<span class="sr">{t.audit.actor}</span>} placeholder={t.audit.actor} value={asked.actor ?? ""} onChange={(actor) => set({ actor })} />
        <Input label={<span class="sr">{t.audit.target}</span>} placeholder="ID" value={asked.targetId ?? ""} onChange={(id) => set({ id })} />
      </div>
      <Card class="flush">
        <Shown of={list} lines={8}>
          {({ data, nextCursor }) =>
            data.length === 0 ? (
              <Empty title={t.audit.empty} />
            ) : (
              <>
                <Table
                  caption={t.audit.title}
                  rows={data}
                  rowKey={(e) => String(e.id)}
                  stale={list.isPlaceholderData}
                  columns={[
                    { id: "at", head: t.audit.when, first: true, cell: (e) => <Time iso={e.at} /> },
                    { id: "actor", head: t.audit.actor, cell: (e) => e.actor },
                    { id: "action", head: t.audit.action, cell: (e) => <code>{e.action}</code> },
                    { id: "target", head: t.audit.target, wide: true, cell: (e) => <Target entry={e} /> },
                    { id: "change", head: t.audit.change, cell: (e) => <Changes entry={e} /> },
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

function Target({ entry }: { entry: Schemas["AuditRow"] }) {
  const short = entry.targetId.length > 12 ? `${entry.targetId.slice(0, 8)}…` : entry.targetId;
  if (entry.targetType === "key" || entry.targetType === "secret") {
    return (
      <Link href={`/keys/${entry.targetId}`} title={entry.targetId}>
        {short}
      </Link>
    );
  }
  return <code title={entry.targetId}>{short}</code>;
}

const dull = new Set(["updated_at", "version"]);

/** Changes are the fields that a change made other than they were. */
export function Changes({ entry }: { entry: Schemas["AuditEntry"] }) {
  const t = useText();
  const before = (entry.before ?? {}) as Record<string, unknown>;
  const after = (entry.after ?? {}) as Record<string, unknown>;
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((n) => !dull.has(n));
  if (names.length === 0) return <span class="faint">–</span>;
  const list = (
    <dl class="changes">
      {names.map((n) => (
        <div key={n}>
          <dt>{n}</dt>
          <dd>
            {n in before && <del>{shown(before[n])}</del>} {n in after && <ins>{shown(after[n])}</ins>}
          </dd>
        </div>
      ))}
    </dl>
  );
  if (names.length <= 2) return list;
  return (
    <details>
      <summary>{t.audit.fields(names.length)}</summary>
      {list}
    </details>
  );
}

function shown(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
