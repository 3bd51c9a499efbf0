// Charts of what was used in each period. uPlot draws; a table says the same to who cannot see it.
import { useEffect, useId, useRef } from "preact/hooks";
import { useFormat, useLocale, useText } from "../i18n";

export interface Series {
  name: string;
  values: number[];
}

const palette = ["--chart-1", "--chart-2", "--chart-3", "--chart-4", "--chart-5", "--chart-6"];

/** Bars are stacked bars, one for each period. */
export function Bars({ title, periods, labels, series, money, height = 200 }: { title: string; periods: string[]; labels?: string[]; series: Series[]; money?: boolean; height?: number }) {
  const t = useText();
  const { language } = useLocale();
  const format = useFormat();
  const place = useRef<HTMLDivElement>(null);
  const id = useId();
  const show = money ? format.money : format.compact;
  const names = labels ?? periods;
  const drawn = JSON.stringify([periods, series]);
  useEffect(() => {
    let gone = false;
    let stop = () => {};
    void import("./draw").then(({ draw }) => {
      if (gone || !place.current) return;
      stop = draw(place.current, { names, series, height, show, colors: palette });
    });
    return () => {
      gone = true;
      stop();
    };
  }, [drawn, height, language]);
  return (
    <figure class="chart" aria-labelledby={id}>
      <figcaption id={id} class="sr">
        {title}
      </figcaption>
      <div ref={place} class="plot" style={{ height: `${height}px` }} aria-hidden="true" />
      {series.length > 1 && (
        <ul class="legend" aria-hidden="true">
          {series.map((s, i) => (
            <li key={s.name}>
              <span class={`swatch s${(i % palette.length) + 1}`} />
              {s.name}
            </li>
          ))}
        </ul>
      )}
      <div class="sr">
        <table>
          <caption>{title}</caption>
          <thead>
            <tr>
              <th scope="col">{t.period}</th>
              {series.map((s) => (
                <th key={s.name} scope="col">
                  {s.name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {periods.map((p, i) => (
              <tr key={p}>
                <th scope="row">{names[i]}</th>
                {series.map((s) => (
                  <td key={s.name}>{show(s.values[i] ?? 0)}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </figure>
  );
}
