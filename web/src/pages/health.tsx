import { useQuery } from "@tanstack/preact-query";
import { service } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { Badge, Card, Facts, Page, Shown, Status, Time } from "../ui/basics";
import { Table } from "../ui/table";

export function Health() {
  const t = useText();
  const format = useFormat();
  const state = useQuery(service());
  return (
    <Page title={t.health.title}>
      <Shown of={state} lines={8}>
        {(s) => (
          <>
            <div class="columns">
              <Card title={t.health.service} actions={<Status status={s.ready.status} />}>
                <Facts
                  of={[
                      [t.health.version, s.version],
                      [t.health.commit, <code>{s.commit.slice(0, 12)}</code>],
                      [t.health.go, s.go],
                      [t.health.postgresql, s.postgresql],
                      [t.health.schema, s.schema.current === s.schema.needed ? t.health.schemaOk(s.schema.current) : t.health.schemaBehind(s.schema.current, s.schema.needed)],
                      [t.health.timezone, s.timezone],
                      [t.health.up, <Time iso={s.startedAt} exact />],
                  ]}
                />
              </Card>
              <Card title={t.health.checks}>
                <ul class="pairs">
                  {Object.entries(s.ready.checks).map(([name, text]) => (
                    <li key={name}>
                      <span>{(t.health.checkNames as Record<string, string>)[name] ?? name}</span>
                      {text === "ok" ? <Badge tone="good">{t.health.ok}</Badge> : <Badge tone="warn">{text}</Badge>}
                    </li>
                  ))}
                </ul>
              </Card>
            </div>
            <Card title={t.health.rollup}>
              <p>{s.rollup.rows === 0 ? t.health.rollupNone : t.health.rollupText(format.integer(s.rollup.rows), format.integer(Math.round(s.rollup.behindSeconds)))}</p>
            </Card>
            <div class="columns">
              <Card title={t.health.queues}>
                <Table
                  caption={t.health.queues}
                  rows={s.queues}
                  rowKey={(q) => q.name}
                  columns={[
                    { id: "name", head: t.name, first: true, cell: (q) => (t.health.checkNames as Record<string, string>)[q.name] ?? q.name },
                    { id: "waiting", head: t.health.waiting, number: true, cell: (q) => format.integer(q.waiting) },
                    { id: "oldest", head: t.health.oldest, number: true, cell: (q) => t.relay.ms(q.oldestMs) },
                  ]}
                />
              </Card>
              <Card title={t.health.pools}>
                <Table
                  caption={t.health.pools}
                  rows={s.pools}
                  rowKey={(p) => p.name}
                  columns={[
                    { id: "name", head: t.name, first: true, cell: (p) => p.name },
                    { id: "inUse", head: t.health.inUse, number: true, cell: (p) => t.ofLimit(format.integer(p.inUse), format.integer(p.most)) },
                  ]}
                />
              </Card>
              <Card title={t.health.replicas}>
                <Table
                  caption={t.health.replicas}
                  rows={s.replicas}
                  rowKey={(r, i) => r.address + r.since + i}
                  columns={[
                    { id: "address", head: t.health.address, first: true, cell: (r) => r.address || t.health.socket },
                    { id: "since", head: t.health.since, cell: (r) => <Time iso={r.since} /> },
                  ]}
                />
              </Card>
            </div>
          </>
        )}
      </Shown>
    </Page>
  );
}
