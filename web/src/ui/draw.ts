// The part of a chart that needs uPlot, loaded when there is one to draw.
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Series } from "./chart";

interface Drawing {
  names: string[];
  series: Series[];
  height: number;
  show: (n: number) => string;
  colors: string[];
}

/** draw draws stacked bars into an element, at its width whatever that becomes. The result takes them away. */
export function draw(place: HTMLElement, d: Drawing): () => void {
  let plot = make(place, d);
  const resized = new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: d.height }));
  resized.observe(place);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const redraw = () => {
    plot.destroy();
    plot = make(place, d);
  };
  const themed = new MutationObserver(redraw);
  themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  dark.addEventListener("change", redraw);
  return () => {
    resized.disconnect();
    themed.disconnect();
    dark.removeEventListener("change", redraw);
    plot.destroy();
  };
}

function make(place: HTMLElement, d: Drawing): uPlot {
  const color = (name: string) => {
    place.style.color = `var(${name})`;
    return getComputedStyle(place).color; // of the theme in use, as a canvas takes it
  };
  // Stacked: each series is drawn from the sum of those before it, the last one first.
  const sums: number[][] = [];
  d.series.forEach((s, i) => sums.push(s.values.map((v, x) => v + (sums[i - 1]?.[x] ?? 0))));
  const order = d.series.map((_, i) => i).reverse();
  const bars = uPlot.paths.bars!({ size: [0.7, 48], radius: 0.15 });
  const font = "12px system-ui, sans-serif";
  const tip = document.createElement("div");
  tip.className = "tip";
  return new uPlot(
    {
      width: place.clientWidth || 600,
      height: d.height,
      padding: [8, 22, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: { x: { time: false, range: (_, min, max) => [min - 0.6, max + 0.6] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.08 : 1] } },
      axes: [
        {
          stroke: color("--muted"), font, grid: { show: false }, ticks: { show: false }, size: 28,
          splits: (u) => {
            const step = Math.max(1, Math.ceil(d.names.length / Math.max(2, Math.floor(u.width / 90))));
            return d.names.map((_, i) => i).filter((i) => (d.names.length - 1 - i) % step === 0);
          },
          values: (_, splits) => splits.map((i) => d.names[i] ?? ""),
        },
        { stroke: color("--muted"), font, grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, size: 64, space: 40, values: (_, splits) => splits.map((v) => d.show(v)) },
      ],
      series: [
        {},
        ...order.map((i) => ({ label: d.series[i]!.name, paths: bars, fill: color(d.colors[i % d.colors.length]!), points: { show: false } })),
      ],
      hooks: {
        init: [(u) => void u.over.append(tip)],
        setCursor: [
          (u) => {
            const at = u.cursor.idx;
            if (at == null || (u.cursor.left ?? -1) < 0) {
              tip.hidden = true;
              return;
            }
            tip.hidden = false;
            const lines = [d.names[at] ?? "", ...d.series.filter((s) => (s.values[at] ?? 0) !== 0).map((s) => `${s.name}: ${d.show(s.values[at] ?? 0)}`)];
            tip.textContent = lines.join("\n");
            const left = u.valToPos(at, "x");
            tip.style.left = `${Math.min(left, u.over.clientWidth - tip.offsetWidth)}px`;
          },
        ],
      },
    },
    [d.names.map((_, i) => i), ...order.map((i) => sums[i]!)],
    place,
  );
}
