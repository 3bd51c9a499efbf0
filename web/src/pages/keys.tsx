import { useMutation, useQuery } from "@tanstack/preact-query";
import { useEffect, useMemo, useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { useAddress } from "../address";
import { api, unwrap, type Key } from "../api/client";
import { changed, restore, setActive } from "../api/keys";
import { keyList, tags } from "../api/queries";
import type { Text } from "../i18n/en";
import { useFormat, useText, type Format } from "../i18n";
import { remember, remembered } from "../memory";
import { useMayChange } from "../session";
import { Button, Card, Empty, Icon, messageOf, Money, Page, Shown, Status, Time } from "../ui/basics";
import { Confirm, useNotes } from "../ui/dialog";
import { Check, Group, Select } from "../ui/form";
import { Countdown, LimitMeter, limitsOf, tightest } from "../ui/meter";
import { Pager, Table, usePages, type Column } from "../ui/table";

type Sort = NonNullable<NonNullable<Parameters<typeof keyList>[0]>["sort"]>;
type KeyStatus = "active" | "disabled" | "expired" | "deleted";
const statuses: KeyStatus[] = ["active", "disabled", "expired", "deleted"];
const typingPause = 250;
const mostLimits = 2; // that a row shows, the fullest ones

export function Keys() {
  const t = useText();
  const format = useFormat();
  const may = useMayChange();
  const [said, set] = useAddress();
  const [typed, setTyped] = useState(said("q"));
  const [chosen, setChosen] = useState<Key[]>([]);
  useEffect(() => {
    const timer = setTimeout(() => typed !== said("q") && set({ q: typed }), typingPause);
    return () => clearTimeout(timer);
  }, [typed]);
  useEffect(() => setTyped(said("q")), [said("q")]); // a link leads here without it
  const query = {
    q: said("q") || undefined,
    tag: said("tag") || undefined,
    status: (said("status") as KeyStatus) || undefined,
    sort: (said("sort") || "-createdAt") as Sort,
  };
  const asked = JSON.stringify(query);
  const pages = usePages(asked);
  const list = useQuery(keyList({ ...query, cursor: pages.cursor, limit: 50 }));
  useEffect(() => setChosen([]), [asked, pages.page]);
  const [shown, setShown] = useColumns();
  const columns = useMemo(() => columnsOf(t, format), [t, format]).filter((c) => c.first || shown.has(c.id));
  const filtered = Boolean(query.q || query.tag || query.status);
  const choice: Column<Key> = {
    id: "choice",
    head: <ChooseAll rows={list.data?.data ?? []} chosen={chosen} onChange={setChosen} />,
    cell: (k) => (
      <input type="checkbox" aria-label={t.keys.select(k.name)} checked={chosen.some((c) => c.id === k.id)} onChange={(e) => setChosen(e.currentTarget.checked ? [...chosen, k] : chosen.filter((c) => c.id !== k.id))} />
    ),
  };
  return (
    <Page
      title={t.keys.title}
      actions={
        may && (
          <>
            <Link class="button" href="/keys/batch">
              {t.keys.batch}
            </Link>
            <Link class="button primary" href="/keys/new">
              <Icon name="plus" /> {t.keys.create}
            </Link>
          </>
        )
      }
    >
      <Filters typed={typed} setTyped={setTyped} tag={query.tag} status={query.status} set={set} columns={<Columns all={columnsOf(t, format)} shown={shown} setShown={setShown} />} />
      {chosen.length > 0 && <Bulk chosen={chosen} done={() => setChosen([])} />}
      <Card class="flush">
        <Shown of={list} lines={8}>
          {({ data, nextCursor }) =>
            data.length === 0 && pages.page === 1 ? (
              filtered ? (
                <Empty
                  title={t.keys.noMatch}
                  action={
                    <Button
                      onClick={() => {
                        setTyped("");
                        set({ q: "", tag: "", status: "" });
                      }}
                    >
                      {t.keys.clear}
                    </Button>
                  }
                >
                  {t.keys.noMatchText}
                </Empty>
              ) : (
                <Empty
                  title={t.keys.empty}
                  action={
                    may && (
                      <Link class="button primary" href="/keys/new">
                        {t.keys.create}
                      </Link>
                    )
                  }
                >
                  {t.keys.emptyText}
                </Empty>
              )
            ) : (
              <>
                <Table caption={t.keys.title} columns={may ? [choice, ...columns] : columns} rows={data} rowKey={(k) => k.id} sort={query.sort} onSort={(sort) => set({ sort })} stale={list.isPlaceholderData} />
                <Pager pages={pages} nextCursor={nextCursor} stale={list.isPlaceholderData} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  );
}

function Filters({ typed, setTyped, tag, status, set, columns }: { typed: string; setTyped: (s: string) => void; tag?: string; status?: string; set: (changes: Record<string, string>) => void; columns: preact.ComponentChildren }) {
  const t = useText();
  const known = useQuery(tags());
  return (
    <div class="filters" role="search">
      <div class="search">
        <Icon name="search" />
        <input type="search" aria-label={t.keys.search} placeholder={t.keys.search} value={typed} onInput={(e) => setTyped(e.currentTarget.value)} />
      </div>
      <Select label={<span class="sr">{t.statusName}</span>} value={status ?? ""} onChange={(status) => set({ status })} options={[{ value: "", text: t.keys.anyStatus }, ...statuses.map((s) => ({ value: s, text: t.status[s] }))]} />
      <Select label={<span class="sr">{t.tag}</span>} value={tag ?? ""} onChange={(tag) => set({ tag })} options={[{ value: "", text: t.keys.anyTag }, ...(known.data?.data ?? []).map((x) => ({ value: x.tag, text: `${x.tag} (${x.keys})` }))]} />
      {columns}
    </div>
  );
}

function columnsOf(t: Text, format: Format): Column<Key>[] {
  return [
    {
      id: "name",
      head: t.name,
      sort: "name",
      first: true,
      cell: (k) => (
        <>
          <Link href={`/keys/${k.id}`}>{k.name}</Link>
          <code class="faint wide">{k.keyHint}</code>
          <span class="narrow">
            <Status status={k.status} />
          </span>
        </>
      ),
    },
    { id: "status", head: t.statusName, wide: true, cell: (k) => <Status status={k.status} /> },
    {
      id: "limits",
      head: t.keys.use,
      cell: (k) => {
        const limits = limitsOf(k);
        if (limits.length === 0) return <span class="faint">{t.keys.noLimits}</span>;
        return (
          <div class="limits">
            {tightest(limits).slice(0, mostLimits).map((l) => (
              <LimitMeter key={l.name} limit={l} compact />
            ))}
            {limits.length > mostLimits && <span class="faint more">{t.moreLimits(limits.length - mostLimits)}</span>}
          </div>
        );
      },
    },
    { id: "window", head: t.keys.window, wide: true, cell: (k) => (k.windowEndTime && k.windowRemainingSeconds ? <Countdown to={k.windowEndTime} /> : <span class="faint">–</span>) },
    { id: "costToday", head: t.keys.costToday, number: true, cell: (k) => <Money usd={k.dailyCost} /> },
    { id: "costMonth", head: t.keys.costMonth, number: true, wide: true, cell: (k) => <Money usd={k.monthlyCost} /> },
    { id: "cost", head: t.keys.costTotal, sort: "cost", number: true, wide: true, cell: (k) => <Money usd={k.totalCost} /> },
    { id: "requests", head: t.requests, sort: "requests", number: true, wide: true, cell: (k) => format.compact(k.usage.total.requests) },
    { id: "live", head: t.keys.concurrency, number: true, wide: true, cell: (k) => format.integer(k.currentConcurrency) },
    {
      id: "tags",
      head: t.keys.tags,
      wide: true,
      cell: (k) => (
        <span class="tags">
          {k.tags.map((tag) => (
            <span key={tag} class="tag">
              {tag}
            </span>
          ))}
        </span>
      ),
    },
    { id: "lastUsedAt", head: t.lastUsed, sort: "lastUsedAt", wide: true, cell: (k) => <Time iso={k.lastUsedAt} fallback={t.neverUsed} /> },
    { id: "expiresAt", head: t.expires, sort: "expiresAt", wide: true, cell: (k) => <Time iso={k.expiresAt} fallback={t.never} /> },
    { id: "createdAt", head: t.created, sort: "createdAt", wide: true, cell: (k) => <Time iso={k.createdAt} /> },
  ];
}

const stored = "keyledger.columns";
const usual = ["status", "limits", "costToday", "cost", "requests", "tags", "lastUsedAt"];

/** useColumns are the columns that a person wants to see, kept in the browser. */
function useColumns() {
  const [shown, setShown] = useState(() => new Set<string>((remembered(stored) ?? usual.join()).split(",")));
  const keep = (now: Set<string>) => {
    remember(stored, [...now].join());
    setShown(now);
  };
  return [shown, keep] as const;
}

function Columns({ all, shown, setShown }: { all: Column<Key>[]; shown: Set<string>; setShown: (s: Set<string>) => void }) {
  const t = useText();
  return (
    <details class="columns-choice">
      <summary class="button">{t.keys.columns}</summary>
      <Group legend={t.keys.columns}>
        {all.map((c) =>
          c.first ? null : (
            <Check
              key={c.id}
              label={c.head}
              checked={shown.has(c.id)}
              onChange={(on) => {
                const now = new Set(shown);
                if (on) now.add(c.id);
                else now.delete(c.id);
                setShown(now);
              }}
            />
          ),
        )}
      </Group>
    </details>
  );
}

function ChooseAll({ rows, chosen, onChange }: { rows: Key[]; chosen: Key[]; onChange: (keys: Key[]) => void }) {
  const t = useText();
  const all = rows.length > 0 && chosen.length === rows.length;
  return <input type="checkbox" aria-label={t.keys.selectAll} checked={all} indeterminate={chosen.length > 0 && !all} onChange={(e) => onChange(e.currentTarget.checked ? rows : [])} />;
}

/** Bulk does the same to all keys that were chosen. */
function Bulk({ chosen, done }: { chosen: Key[]; done: () => void }) {
  const t = useText();
  const note = useNotes();
  const [asked, setAsked] = useState<"disable" | "remove">();
  const ids = chosen.map((k) => k.id);
  const deleted = chosen.every((k) => k.status === "deleted");
  const act = useMutation({
    mutationFn: async (what: "disable" | "enable" | "remove" | "restore") => {
      if (what === "remove") await unwrap(api.POST("/v1/keys/batch-delete", { body: { ids } }));
      else if (what === "restore") await restore(ids);
      else await setActive(ids, what === "enable");
      return what;
    },
    onSuccess: (what) => {
      const text = { disable: t.keys.disabled(ids.length), enable: t.keys.enabled(ids.length), remove: t.keys.removed(ids.length), restore: t.keys.restored }[what];
      const active = chosen.filter((k) => k.isActive).map((k) => k.id); // the others were disabled before
      const back = { disable: active.length > 0 ? () => setActive(active, true) : undefined, remove: () => restore(ids), enable: undefined, restore: undefined }[what];
      note({ text, undo: back && (() => back().then(changed)) });
      setAsked(undefined);
      done();
      changed();
    },
    onError: (error) => !asked && note({ text: messageOf(t, error), bad: true }),
  });
  return (
    <div class="bulk" role="group" aria-label={t.keys.selected(chosen.length)}>
      <strong>{t.keys.selected(chosen.length)}</strong>
      {deleted ? (
        <Button busy={act.isPending} onClick={() => act.mutate("restore")}>
          {t.keys.restore}
        </Button>
      ) : (
        <>
          <Button busy={act.isPending} onClick={() => act.mutate("enable")}>
            {t.keys.enable}
          </Button>
          <Button onClick={() => setAsked("disable")}>{t.keys.disable}</Button>
          <Button kind="danger" onClick={() => setAsked("remove")}>
            {t.keys.remove}
          </Button>
        </>
      )}
      {asked && (
        <Confirm
          title={asked === "remove" ? t.keys.removeTitle(ids.length) : t.keys.disableTitle(ids.length)}
          text={
            <>
              <p>{asked === "remove" ? t.keys.removeText : t.keys.disableText}</p>
              <ul class="names">
                {chosen.slice(0, 10).map((k) => (
                  <li key={k.id}>{k.name}</li>
                ))}
                {chosen.length > 10 && <li>…</li>}
              </ul>
            </>
          }
          action={asked === "remove" ? t.keys.remove : t.keys.disable}
          danger
          busy={act.isPending}
          error={act.error}
          onConfirm={() => act.mutate(asked)}
          onClose={() => {
            setAsked(undefined);
            act.reset();
          }}
        />
      )}
    </div>
  );
}
