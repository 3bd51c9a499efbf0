// Tables, their order and their pages.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { useText } from "../i18n";
import { Button, classes, Icon } from "./basics";

export interface Column<T> {
  id: string;
  head: ComponentChildren;
  cell: (row: T) => ComponentChildren;
  sort?: string; // the name that the API sorts by
  number?: boolean;
  wide?: boolean; // left out on a phone
  first?: boolean; // names the row
}

export function Table<T>({ caption, columns, rows, rowKey, sort, onSort, stale }: { caption: string; columns: Column<T>[]; rows: T[]; rowKey: (row: T, index: number) => string; sort?: string; onSort?: (sort: string) => void; stale?: boolean }) {
  return (
    <div class={classes("table-scroll", stale && "stale")} role="group" aria-label={caption} tabIndex={0}>
      <table>
        <caption class="sr">{caption}</caption>
        <thead>
          <tr>
            {columns.map((c) => (
              <Head key={c.id} column={c} sort={sort} onSort={onSort} />
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, i) => (
            <tr key={rowKey(row, i)}>
              {columns.map((c) =>
                c.first ? (
                  <th key={c.id} scope="row">
                    {c.cell(row)}
                  </th>
                ) : (
                  <td key={c.id} class={classes(c.number && "number", c.wide && "wide")}>
                    {c.cell(row)}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Head<T>({ column, sort, onSort }: { column: Column<T>; sort?: string; onSort?: (sort: string) => void }) {
  const name = classes(column.number && "number", column.wide && "wide");
  if (!column.sort || !onSort) {
    return (
      <th scope="col" class={name}>
        {column.head}
      </th>
    );
  }
  const ascending = sort === column.sort;
  const descending = sort === `-${column.sort}`;
  return (
    <th scope="col" class={name} aria-sort={ascending ? "ascending" : descending ? "descending" : undefined}>
      <button type="button" class="sort" onClick={() => onSort(descending ? column.sort! : `-${column.sort}`)}>
        {column.head}
        {(ascending || descending) && <Icon name={ascending ? "up" : "down"} />}
      </button>
    </th>
  );
}

/** usePages keeps the cursors of the pages on the way here. Those of another question count for nothing. */
export function usePages(asked: string) {
  const [way, setWay] = useState<{ asked: string; cursors: string[] }>({ asked, cursors: [] });
  const cursors = way.asked === asked ? way.cursors : [];
  return {
    cursor: cursors.at(-1),
    page: cursors.length + 1,
    next: (cursor: string) => setWay({ asked, cursors: [...cursors, cursor] }),
    back: () => setWay({ asked, cursors: cursors.slice(0, -1) }),
  };
}

/** Pager leads to the pages before and after. stale: what is shown is still the page before, and so is nextCursor. */
export function Pager({ pages, nextCursor, stale }: { pages: ReturnType<typeof usePages>; nextCursor: string; stale: boolean }) {
  const t = useText();
  if (pages.page === 1 && !nextCursor) return null;
  return (
    <nav class="pager" aria-label={t.pages}>
      <Button onClick={pages.back} disabled={pages.page === 1}>
        <Icon name="back" /> {t.previous}
      </Button>
      <span class="faint">{t.page(pages.page)}</span>
      <Button onClick={() => pages.next(nextCursor)} disabled={!nextCursor || stale}>
        {t.next} <Icon name="next" />
      </Button>
    </nav>
  );
}
