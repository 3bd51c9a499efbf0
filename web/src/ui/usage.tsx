// What was used: the same for a key, an account and a key's holder.
import type { Schemas } from "../api/client";
import { dayBefore, daysOf } from "../days";
import { useFormat, useText } from "../i18n";
import type { Text } from "../i18n/en";
import { Money } from "./basics";
import { Bars, type Series } from "./chart";
import { Table } from "./table";

type Report = Schemas["UsageReport"];

/** Figures are what was used today, in this month, and ever. */
export function Figures({ of }: { of: Schemas["Usage"] }) {
  const t = useText();
  const format = useFormat();
  return (
    <dl class="figures" data-test="usage">
      {([[t.today, of.daily], [t.month, of.monthly], [t.total, of.total]] as const).map(([name, block]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            <Money usd={block.costUsd} />
          </dd>
          <dd class="faint">
            {t.overview.requestsIn(block.requests, format.compact(block.requests))}
            <br />
            {t.tokensIn(format.compact(block.allTokens))}
          </dd>
        </div>
      ))}
    </dl>
  );
}

const chartDays = 30;

/** CostByDay is a chart of what each of 30 days up to today cost. */
export function CostByDay({ title, today, rows }: { title: string; today: string; rows: { day: string; costUsd: number }[] }) {
  const t = useText();
  const format = useFormat();
  const periods = daysOf(dayBefore(today, chartDays - 1), today);
  const costs = new Map(rows.map((r) => [r.day, r.costUsd]));
  return <Bars title={title} periods={periods} labels={periods.map(format.shortDay)} series={[{ name: t.cost, values: periods.map((p) => costs.get(p) ?? 0) }]} money height={180} />;
}

const chartModels = 5;

/** CostByModel is a chart of what each of 30 days up to today cost, by model. byModel has at most a page of rows: where there are more, the bars are of all models together. */
export function CostByModel({ title, today, byDay, byModel: rows, height }: { title: string; today: string; byDay: Report; byModel?: Report; height: number }) {
  const t = useText();
  const format = useFormat();
  const periods = daysOf(dayBefore(today, chartDays - 1), today);
  const costs = new Map(byDay.data.map((row) => [row.period, row.costUsd]));
  const together: Series[] = [{ name: t.cost, values: periods.map((p) => costs.get(p) ?? 0) }];
  const series = rows && rows.nextCursor === "" ? byModel(rows, periods, t.overview.other) : together;
  return <Bars title={title} periods={periods} labels={periods.map(format.shortDay)} series={series} money height={height} />;
}

/** byModel is the cost of the dearest models in each period, and of all others together. */
function byModel(report: Report, periods: string[], other: string): Series[] {
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

export function modelSums(report: Report) {
  const sums = new Map<string, { model: string; usd: number; requests: number }>();
  for (const row of report.data) {
    const model = row.model ?? "";
    const sum = sums.get(model) ?? { model, usd: 0, requests: 0 };
    sums.set(model, { model, usd: sum.usd + row.costUsd, requests: sum.requests + row.requests });
  }
  return [...sums.values()].sort((a, b) => b.usd - a.usd || b.requests - a.requests);
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

interface Restricted {
  permissions: string[];
  enableModelRestriction: boolean;
  allowedModels: string[];
  restrictedModels: string[];
  enableClientRestriction: boolean;
  allowedClients: string[];
}

/** restrictions say what a key may use, each in a line. */
export function restrictions(t: Text, k: Restricted): [string, string][] {
  const denied = k.enableModelRestriction && k.restrictedModels.length > 0 ? t.me.except(k.restrictedModels.join(", ")) : "";
  const allowed = k.enableModelRestriction && k.allowedModels.length > 0 ? k.allowedModels.join(", ") : "";
  return [
    [t.form.services, k.permissions.includes("all") ? t.form.allServices : k.permissions.join(", ")],
    [t.form.models, [allowed, denied].filter((s) => s !== "").join("; ") || t.form.anyModel],
    [t.form.clients, k.enableClientRestriction && k.allowedClients.length > 0 ? k.allowedClients.join(", ") : t.form.anyClient],
  ];
}
