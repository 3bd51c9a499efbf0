import { useMutation, useQuery } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { useAddress } from "../address";
import { api, fieldErrors, unwrap, type Schemas } from "../api/client";
import { report } from "../api/queries";
import { dayBefore, daysOf, todayIn } from "../days";
import type { Text } from "../i18n/en";
import { useFormat, useText } from "../i18n";
import { useSession } from "../session";
import { Badge, Button, Card, Empty, Icon, messageOf, Money, Page, Shown } from "../ui/basics";
import { Bars, type Series } from "../ui/chart";
import { Check, Group, half, Input, Select, When } from "../ui/form";
import { Pager, Table, usePages, type Column } from "../ui/table";

type Row = Schemas["ReportRow"];
type Asked = Parameters<typeof report>[0];
const groups = ["key", "model", "account", "tag"] as const;
const granularities = ["hour", "day", "month", "total"] as const;
const ranges = ["d7", "d30", "month", "lastMonth", "year", "custom"] as const;
type Range = (typeof ranges)[number];

function datesOf(range: Range, today: string): { from: string; to: string } {
  const first = `${today.slice(0, 7)}-01`;
  switch (range) {
    case "d7":
      return { from: dayBefore(today, 6), to: today };
    case "month":
      return { from: first, to: today };
    case "lastMonth": {
      const last = dayBefore(first, 1);
      return { from: `${last.slice(0, 7)}-01`, to: last };
    }
    case "year":
      return { from: `${Number(today.slice(0, 4)) - 1}${today.slice(4, 7)}-01`, to: today };
    default:
      return { from: dayBefore(today, 29), to: today };
  }
}

export function Reports() {
  const t = useText();
  const { timezone } = useSession();
  const today = todayIn(timezone);
  const [said, set] = useAddress();
  const range = (said("range") || "d30") as Range;
  const dates = range === "custom" ? { from: said("from") || today, to: said("to") || today } : datesOf(range, today);
  const grouped = said("groupBy") || "model";
  const asked: Asked = {
    ...dates,
    granularity: (said("by") as Asked["granularity"]) || (range === "year" ? "month" : "day"),
    groupBy: groups.filter((g) => grouped.split(",").includes(g)),
    keyId: said("keyId") || undefined,
    model: said("model") || undefined,
    accountId: said("accountId") || undefined,
    tag: said("tag") || undefined,
  };
  if (asked.groupBy?.length === 0) delete asked.groupBy;
  const pages = usePages(JSON.stringify(asked));
  const result = useQuery(report({ ...asked, limit: 50, cursor: pages.cursor }));
  const drawn = useQuery(report({ ...asked, groupBy: asked.groupBy?.slice(0, 1), limit: 1000 }));
  const errors = fieldErrors(result.error);
  return (
    <Page
      title={t.reports.title}
      lead={t.reports.lead}
      actions={
        <a class="button" href={csvOf(asked)} download={`usage-${dates.from}-${dates.to}.csv`}>
          <Icon name="download" /> {t.reports.csv}
        </a>
      }
    >
      <Card>
        <div class="row-form">
          <Select label={t.reports.range} value={range} onChange={(v) => set(v === "custom" ? { range: v, ...dates } : { range: v })} options={ranges.map((r) => ({ value: r, text: t.reports.ranges[r] }))} />
          {range === "custom" && (
            <>
              <When kind="date" label={t.reports.from} value={dates.from} onChange={(v) => v !== half && v !== "" && set({ from: v })} error={errors.from} />
              <When kind="date" label={t.reports.to} value={dates.to} onChange={(v) => v !== half && v !== "" && set({ to: v })} error={errors.to} />
            </>
          )}
          <Select label={t.reports.granularity} value={asked.granularity ?? "day"} onChange={(v) => set({ by: v })} options={granularities.map((g) => ({ value: g, text: t.reports.granularities[g] }))} />
          <Group legend={t.reports.groupBy}>
            <div class="checks-row">
              {groups.map((g) => (
                <Check key={g} label={t[g]} checked={asked.groupBy?.includes(g) ?? false} onChange={(on) => set({ groupBy: groups.filter((x) => (x === g ? on : asked.groupBy?.includes(x))).join(",") || "none" })} />
              ))}
            </div>
          </Group>
        </div>
        <Filters asked={asked} set={set} />
      </Card>
      <Shown of={result} lines={8}>
        {(r) =>
          r.data.length === 0 && pages.page === 1 ? (
            <Card>
              <Empty title={t.reports.empty}>{t.reports.emptyText}</Empty>
            </Card>
          ) : (
            <>
              <Card title={t.reports.chart}>
                <Shown of={drawn}>
                  {(all) => (
                    <>
                      <Chart report={all} asked={asked} />
                      {all.nextCursor !== "" && <p class="hint">{t.reports.more}</p>}
                    </>
                  )}
                </Shown>
              </Card>
              <Card class="flush">
                <Rows report={r} asked={asked} stale={result.isPlaceholderData} />
                <Pager pages={pages} nextCursor={r.nextCursor} stale={result.isPlaceholderData} />
              </Card>
            </>
          )
        }
      </Shown>
    </Page>
  );
}

/** csvOf is where the whole report is as CSV. */
function csvOf(asked: Asked): string {
  const query = new URLSearchParams({ format: "csv" });
  for (const [name, value] of Object.entries(asked)) if (value !== undefined) query.set(name, String(value));
  return `/v1/reports/usage?${query}`;
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** Filters narrow the report down. A key is found by its name as well. */
function Filters({ asked, set }: { asked: Asked; set: (changes: Record<string, string>) => void }) {
  const t = useText();
  const names = { keyId: t.reports.onlyKey, model: t.reports.onlyModel, accountId: t.reports.onlyAccount, tag: t.reports.onlyTag } as const;
  const fields = Object.keys(names) as (keyof typeof names)[];
  const given = fields.some((f) => asked[f]);
  const [draft, setDraft] = useState<Record<string, string>>({});
  const find = useMutation({
    mutationFn: async () => {
      const wanted = Object.fromEntries(Object.entries(draft).map(([f, v]) => [f, v.trim()]));
      const name = wanted.keyId;
      if (name && !uuid.test(name)) {
        const found = (await unwrap(api.GET("/v1/keys", { params: { query: { q: name, limit: 200 } } }))).data;
        const same = found.filter((k) => k.name === name);
        const [one, another] = same.length > 0 ? same : found;
        if (!one || another) throw new Error(one ? t.reports.severalKeys : t.reports.noKey);
        wanted.keyId = one.id;
      }
      return wanted;
    },
    onSuccess: (wanted) => {
      setDraft({});
      set(wanted);
    },
  });
  return (
    <details open={given || undefined}>
      <summary>{t.reports.filter}</summary>
      <form
        class="row-form"
        onSubmit={(e) => {
          e.preventDefault();
          find.mutate();
        }}
      >
        {fields.map((f) => (
          <Input
            key={f}
            label={names[f]}
            placeholder={f === "keyId" ? t.reports.anyKey : undefined}
            value={draft[f] ?? asked[f] ?? ""}
            error={f === "keyId" && find.error ? messageOf(t, find.error) : undefined}
            onChange={(v) => {
              setDraft({ ...draft, [f]: v });
              find.reset();
            }}
          />
        ))}
        <Button type="submit" busy={find.isPending}>
          {t.reports.show}
        </Button>
      </form>
    </details>
  );
}

const chartSeries = 5;

/** partOf is what a row is for, of the first thing that the report is grouped by. */
function partOf(t: Text, row: Row, by: (typeof groups)[number] | undefined): string {
  switch (by) {
    case "key":
      return row.keyName ?? "";
    case "model":
      return row.model ?? "";
    case "account":
      return row.accountId || t.reports.noAccount;
    case "tag":
      return row.tag || t.reports.noTag;
    default:
      return t.cost;
  }
}

/** periodsOf are the periods of a report in order; days without use among them are not left out. */
function periodsOf(r: Schemas["UsageReport"], asked: Asked): string[] {
  const used = [...new Set(r.data.map((row) => row.period))].sort();
  return asked.granularity === "day" && asked.from && asked.to ? daysOf(asked.from, asked.to) : used;
}

function Chart({ report: r, asked }: { report: Schemas["UsageReport"]; asked: Asked }) {
  const t = useText();
  const format = useFormat();
  const { timezone } = useSession();
  const by = asked.groupBy?.[0];
  const periods = periodsOf(r, asked);
  const sums = new Map<string, number>();
  for (const row of r.data) sums.set(partOf(t, row, by), (sums.get(partOf(t, row, by)) ?? 0) + row.costUsd);
  const top = [...sums.entries()].sort((a, b) => b[1] - a[1]).slice(0, chartSeries).map(([name]) => name);
  const names = sums.size > top.length ? [...top, t.overview.other] : top;
  const place = new Map(periods.map((p, i) => [p, i]));
  const series: Series[] = names.map((name) => ({ name, values: periods.map(() => 0) }));
  for (const row of r.data) {
    const at = place.get(row.period);
    const of = top.indexOf(partOf(t, row, by));
    const values = series[of < 0 ? top.length : of]!.values;
    if (at !== undefined) values[at] = values[at]! + row.costUsd;
  }
  const label = (p: string) => (p.length === 10 ? format.shortDay(p) : p.includes("T") ? format.hour(p, timezone) : p === "total" ? t.reports.granularities.total : p);
  return <Bars title={t.reports.chart} periods={periods} labels={periods.map(label)} series={series} money height={240} />;
}

function Rows({ report: r, asked, stale }: { report: Schemas["UsageReport"]; asked: Asked; stale: boolean }) {
  const t = useText();
  const format = useFormat();
  const { timezone } = useSession();
  const count = (n: number) => format.integer(n);
  const by = asked.groupBy ?? [];
  const columns: Column<Row>[] = [
    { id: "period", head: t.period, first: true, cell: (row) => (row.period === "total" ? t.reports.granularities.total : row.period.includes("T") ? format.hour(row.period, timezone) : row.period) },
  ];
  if (by.includes("key")) columns.push({ id: "key", head: t.key, cell: (row) => (row.keyName === "(purged)" ? row.keyName : <Link href={`/keys/${row.keyId}`}>{row.keyName}</Link>) });
  for (const g of ["model", "account", "tag"] as const) if (by.includes(g)) columns.push({ id: g, head: t[g], cell: (row) => partOf(t, row, g) });
  columns.push(
    { id: "requests", head: t.requests, number: true, cell: (row) => count(row.requests) },
    { id: "in", head: t.keyPage.input, number: true, wide: true, cell: (row) => count(row.inputTokens) },
    { id: "out", head: t.keyPage.output, number: true, wide: true, cell: (row) => count(row.outputTokens) },
    { id: "write", head: t.keyPage.cacheWrite, number: true, wide: true, cell: (row) => count(row.cacheCreateTokens) },
    { id: "read", head: t.keyPage.cacheRead, number: true, wide: true, cell: (row) => count(row.cacheReadTokens) },
    { id: "cost", head: t.cost, number: true, cell: (row) => <Money usd={row.costUsd} /> },
  );
  return (
    <>
      <Table caption={t.reports.title} rows={r.data} columns={columns} rowKey={(row) => [row.period, row.keyId, row.model, row.accountId, row.tag].join("|")} stale={stale} />
      <p class="totals" data-test="totals">
        <strong>{t.reports.totals}</strong>
        <span>{t.overview.requestsIn(r.totals.requests, count(r.totals.requests))}</span>
        <span>
          {count(r.totals.allTokens)} {t.tokens}
        </span>
        <strong>
          <Money usd={r.totals.costUsd} />
        </strong>
        {r.totals.rowsOverlap && <Badge tone="warn">{t.reports.overlap}</Badge>}
      </p>
    </>
  );
}
