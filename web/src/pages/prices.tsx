import { useMutation, useQuery } from "@tanstack/preact-query";
import { useEffect, useState } from "preact/hooks";
import { api, fieldErrors, unwrap, type Schemas } from "../api/client";
import { prices, queryClient, unpriced } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { useMayChange } from "../session";
import { Badge, Button, Card, Empty, FormError, Icon, Page, Shown, Time } from "../ui/basics";
import { Dialog, useNotes } from "../ui/dialog";
import { check, half, Input, instantOf, When } from "../ui/form";
import { Pager, Table, usePages, type Column } from "../ui/table";
import { ImportPrices } from "./priceimport";
import { Reprice } from "./reprice";

type Price = Schemas["Price"];
const rates = ["input", "output", "cacheRead", "cacheWrite", "cacheWrite1h"] as const;
// An amount may be sent as a text, and is always answered as a number.
const rateOf = (p: Schemas["Rates"], name: (typeof rates)[number]) => {
  const usd = p[`${name}PerMillion`];
  return usd == null ? null : Number(usd);
};
const typingPause = 250;

export function Prices() {
  const t = useText();
  const may = useMayChange();
  const [typed, setTyped] = useState("");
  const [q, setQ] = useState("");
  const [open, setOpen] = useState<"set" | "import" | "reprice">();
  const [model, setModel] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => setQ(typed.trim()), typingPause);
    return () => clearTimeout(timer);
  }, [typed]);
  const pages = usePages(q);
  const list = useQuery(prices({ q: q || undefined, cursor: pages.cursor, limit: 50 }));
  const close = () => setOpen(undefined);
  return (
    <Page
      title={t.prices.title}
      lead={t.prices.lead}
      actions={
        may && (
          <>
            <Button onClick={() => setOpen("reprice")}>{t.prices.reprice}</Button>
            <Button onClick={() => setOpen("import")}>{t.prices.import}</Button>
            <Button
              kind="primary"
              onClick={() => {
                setModel("");
                setOpen("set");
              }}
            >
              {t.prices.set}
            </Button>
          </>
        )
      }
    >
      <Unpriced
        onSet={
          may
            ? (m) => {
                setModel(m);
                setOpen("set");
              }
            : undefined
        }
      />
      <div class="filters" role="search">
        <div class="search">
          <Icon name="search" />
          <input type="search" aria-label={t.prices.search} placeholder={t.prices.search} value={typed} onInput={(e) => setTyped(e.currentTarget.value)} />
        </div>
      </div>
      <Card class="flush">
        <Shown of={list} lines={8}>
          {({ data, nextCursor }) =>
            data.length === 0 ? (
              <Empty title={t.prices.empty} />
            ) : (
              <>
                <Catalogue rows={data} stale={list.isPlaceholderData} />
                <Pager pages={pages} nextCursor={nextCursor} stale={list.isPlaceholderData} />
              </>
            )
          }
        </Shown>
      </Card>
      {open === "set" && <SetPrice model={model} onClose={close} />}
      {open === "import" && <ImportPrices onClose={close} />}
      {open === "reprice" && <Reprice onClose={close} />}
    </Page>
  );
}

/** The first instant of all is when a price holds from the beginning. */
const beginning = "0001-01-01";

function Catalogue({ rows, stale }: { rows: Price[]; stale: boolean }) {
  const t = useText();
  const format = useFormat();
  const columns: Column<Price>[] = [
    { id: "model", head: t.model, first: true, cell: (p) => p.model },
    { id: "provider", head: t.prices.provider, wide: true, cell: (p) => p.provider || "–" },
    ...rates.map((name, i): Column<Price> => ({
      id: name,
      head: t.prices[name],
      number: true,
      wide: i > 1,
      cell: (p) => {
        const [usd, long] = [rateOf(p, name), p.above200k && rateOf(p.above200k, name)];
        if (usd == null) return <span class="faint">–</span>;
        return (
          <>
            {format.money(usd)}
            {long != null && (
              <span class="faint second-line">
                {format.money(long)} {t.prices.long}
              </span>
            )}
          </>
        );
      },
    })),
    {
      id: "from",
      head: t.prices.from,
      wide: true,
      cell: (p) =>
        p.effectiveFrom.startsWith(beginning) ? (
          <span class="faint">{t.prices.always}</span>
        ) : (
          <>
            <Time iso={p.effectiveFrom} exact /> {new Date(p.effectiveFrom) > new Date() && <Badge tone="warn">{t.prices.upcoming}</Badge>}
          </>
        ),
    },
    { id: "source", head: t.prices.source, wide: true, cell: (p) => t.prices.sources[p.source] },
  ];
  return <Table caption={t.prices.title} rows={rows} columns={columns} rowKey={(p) => p.model + p.effectiveFrom} stale={stale} />;
}

function Unpriced({ onSet }: { onSet?: (model: string) => void }) {
  const t = useText();
  const format = useFormat();
  const list = useQuery(unpriced());
  if (!list.data || list.data.data.length === 0) return null;
  return (
    <Card title={t.prices.unpriced}>
      <p class="faint">{t.overview.unpricedText}</p>
      <Table
        caption={t.prices.unpriced}
        rows={list.data.data}
        rowKey={(m) => m.model}
        columns={[
          { id: "model", head: t.model, first: true, cell: (m) => m.model },
          { id: "requests", head: t.requests, number: true, cell: (m) => format.compact(m.requests) },
          { id: "tokens", head: t.tokens, number: true, wide: true, cell: (m) => format.compact(m.tokens) },
          { id: "last", head: t.prices.last, wide: true, cell: (m) => <Time iso={m.lastAt} /> },
          {
            id: "act",
            head: <span class="sr">{t.actions}</span>,
            cell: (m) => (m.pricedNow ? <Badge tone="warn">{t.prices.pricedNow}</Badge> : onSet && <Button onClick={() => onSet(m.model)}>{t.prices.set}</Button>),
          },
        ]}
      />
    </Card>
  );
}

/** SetPrice sets a price. Of the model's present one it shows the rates, and keeps what it does not show. */
function SetPrice({ model: given, onClose }: { model: string; onClose: () => void }) {
  const t = useText();
  const note = useNotes();
  const [draft, setDraft] = useState<Record<string, string>>({ model: given });
  const name = (draft.model ?? "").trim();
  const known = useQuery({ ...prices({ q: name, limit: 200 }), enabled: name !== "" });
  const present = known.data?.data.filter((p) => p.model === name && new Date(p.effectiveFrom) <= new Date()).at(-1);
  useEffect(() => {
    if (!present) return;
    const shown = Object.fromEntries(rates.map((r) => [r, rateOf(present, r)]).filter(([, usd]) => usd !== null).map(([r, usd]) => [r, String(usd)]));
    setDraft((before) => ({ provider: present.provider, ...shown, ...before }));
  }, [present?.model, present?.effectiveFrom]);
  const [tried, setTried] = useState(false);
  const value = (f: string) => (draft[f] ?? "").trim();
  const own: Record<string, string> = {};
  if (value("model") === "") own.model = t.rule.required;
  for (const rate of rates) own[rate] = check(t, "estimatePerRequest", value(rate));
  if (value("input") === "") own.input = t.rule.required;
  if (draft.from === half) own.from = t.rule.half;
  const save = useMutation({
    mutationFn: () =>
      unwrap(
        api.POST("/v1/prices", {
          body: {
            model: value("model"),
            provider: value("provider") || undefined,
            effectiveFrom: instantOf(value("from")) ?? undefined,
            above200k: present?.above200k,
            maxOutputTokens: present?.maxOutputTokens,
            ...Object.fromEntries(rates.filter((name) => value(name) !== "").map((name) => [`${name}PerMillion`, value(name)])),
          },
        }),
      ),
    onSuccess: (p) => {
      note({ text: t.prices.stored(p.model) });
      void queryClient.invalidateQueries({ queryKey: ["prices"] });
      void queryClient.invalidateQueries({ queryKey: ["unpriced"] });
      onClose();
    },
  });
  const theirs = fieldErrors(save.error);
  const text = (f: string, sent = f) => ({ value: draft[f] ?? "", onChange: (v: string) => setDraft({ ...draft, [f]: v }), error: (tried || value(f) !== "" ? own[f] : "") || theirs[sent] });
  return (
    <Dialog title={t.prices.setTitle} onClose={onClose} wide>
      <form
        noValidate
        onSubmit={(e) => {
          e.preventDefault();
          setTried(true);
          if (Object.values(own).every((w) => w === "")) save.mutate();
        }}
      >
        <p class="faint">
          {t.prices.setLead} {(present?.above200k || present?.maxOutputTokens) && t.prices.setKeeps}
        </p>
        <div class="grid">
          <Input label={t.model} {...text("model")} />
          <Input label={t.prices.provider} {...text("provider")} />
          {rates.map((name) => (
            <Input key={name} label={t.prices[name]} hint={name === "output" && value("output") === "" ? t.prices.noOutput : undefined} unit="$" inputMode="decimal" {...text(name, `${name}PerMillion`)} />
          ))}
          <When label={t.prices.effectiveFrom} hint={t.prices.effectiveHint} {...text("from", "effectiveFrom")} />
        </div>
        <FormError error={save.error} />
        <footer class="dialog-foot">
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button type="submit" kind="primary" busy={save.isPending}>
            {t.save}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}
