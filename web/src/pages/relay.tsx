import { useQuery } from "@tanstack/preact-query";
import { Link } from "wouter-preact";
import { relay } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { Badge, Card, Empty, Page, Shown, useNow } from "../ui/basics";
import { Table } from "../ui/table";
import { accountPath } from "./accounts";

export function Relay() {
  const t = useText();
  const format = useFormat();
  const state = useQuery(relay());
  const now = useNow();
  return (
    <Page title={t.relay.title} lead={t.relay.lead}>
      <Shown of={state}>
        {(r) =>
          !r.running ? (
            <Card>
              <Empty title={t.relay.off}>{t.relay.offText}</Empty>
            </Card>
          ) : (
            <>
              <Card>
                <dl class="figures">
                  <div>
                    <dt>{t.relay.underWay}</dt>
                    <dd>{format.integer(r.underWay)}</dd>
                  </div>
                  <div>
                    <dt>{t.relay.unrecorded}</dt>
                    <dd>{format.integer(r.unrecorded)}</dd>
                  </div>
                </dl>
              </Card>
              <Card class="flush">
                <Table
                  caption={t.relay.lead}
                  rows={r.accounts}
                  rowKey={(a) => a.service + a.id}
                  columns={[
                    { id: "id", head: t.account, first: true, cell: (a) => <Link href={accountPath(a.id)}>{a.id}</Link> },
                    { id: "service", head: t.relay.service, wide: true, cell: (a) => a.service },
                    {
                      id: "state",
                      head: t.relay.state,
                      cell: (a) =>
                        a.resting && a.restsUntil ? (
                          <>
                            <Badge tone="warn">{t.relay.rests(format.countdown((new Date(a.restsUntil).getTime() - now) / 1000))}</Badge>
                            <span class="faint second-line">
                              {a.reason} {a.detail}
                            </span>
                          </>
                        ) : (
                          <Badge tone="good">{t.relay.serving}</Badge>
                        ),
                    },
                    { id: "underWay", head: t.relay.underWay, number: true, cell: (a) => format.integer(a.underWay) },
                    { id: "served", head: t.relay.served, number: true, wide: true, cell: (a) => format.compact(a.served) },
                    { id: "first", head: t.relay.firstByte, wide: true, cell: (a) => (a.firstByteMs.of === 0 ? "–" : t.relay.quantiles(t.relay.ms(a.firstByteMs.p50), t.relay.ms(a.firstByteMs.p95))) },
                  ]}
                />
              </Card>
            </>
          )
        }
      </Shown>
    </Page>
  );
}
