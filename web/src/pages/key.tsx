import { useMutation, useQuery } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { Link, useLocation } from "wouter-preact";
import { api, unwrap, type Key, type Schemas } from "../api/client";
import { events, key, keyAdmissions, keyAudit, keyRefusals, keySecrets, keyUsage, queryClient, report } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { useMayChange } from "../session";
import { Badge, Button, Card, Failed, Loading, Money, Page, Shown, Status, Time } from "../ui/basics";
import { Bars, dayBefore, days } from "../ui/chart";
import { Confirm, Dialog, useNotes } from "../ui/dialog";
import { Select } from "../ui/form";
import { LimitMeter, limitsOf } from "../ui/meter";
import { Table } from "../ui/table";
import { Secret } from "./issued";
import { Changes } from "./audit";
import { Explain } from "./explain";
import { restore } from "./keys";
import { reasonName } from "./overview";

export function KeyPage({ id }: { id: string }) {
  const t = useText();
  const may = useMayChange();
  const asked = useQuery(key(id));
  const back = { href: "/keys", text: t.keys.title };
  if (!asked.data) {
    return (
      <Page title={t.key} back={back}>
        {asked.error ? <Failed error={asked.error} retry={() => void asked.refetch()} /> : <Loading lines={6} />}
      </Page>
    );
  }
  const k = asked.data;
  const live = k.status !== "deleted";
  return (
    <Page
      title={k.name}
      back={back}
      lead={
        <>
          <Status status={k.status} /> <code>{k.keyHint}</code> {k.description && <span>{k.description}</span>}
        </>
      }
      actions={
        may && live ? (
          <>
            <Rotate k={k} />
            <Link class="button primary" href={`/keys/${id}/edit`}>
              {t.keyPage.edit}
            </Link>
          </>
        ) : may ? (
          <Restore id={id} />
        ) : undefined
      }
    >
      {!live && <p class="banner">{t.keyPage.isDeleted}</p>}
      <div class="columns">
        <Limits k={k} />
        <Usage id={id} />
      </div>
      <Charts id={id} />
      <LiveAdmissions id={id} />
      {live && <Explain k={k} />}
      <Events id={id} />
      <div class="columns">
        <Settings k={k} />
        <div class="stack">
          <Secrets id={id} />
          <Refusals id={id} />
        </div>
      </div>
      <Audit id={id} />
      {may && <Danger k={k} />}
    </Page>
  );
}

function refresh(id: string) {
  void queryClient.invalidateQueries({ queryKey: ["key", id] });
  void queryClient.invalidateQueries({ queryKey: ["keys"] });
}

function Limits({ k }: { k: Key }) {
  const t = useText();
  const may = useMayChange();
  const limits = limitsOf(k);
  return (
    <Card title={t.keyPage.limits}>
      {k.enforcement === "observe" && limits.length > 0 && <p class="banner">{t.keyPage.observed}</p>}
      {limits.length === 0 ? (
        <p class="faint">
          {t.keyPage.noLimits} {may && k.status !== "deleted" && <Link href={`/keys/${k.id}/edit`}>{t.keyPage.addLimits}</Link>}
        </p>
      ) : (
        <div class="limits" data-test="limits">
          {limits.map((l) => (
            <LimitMeter key={l.name} limit={l} />
          ))}
        </div>
      )}
    </Card>
  );
}

function Usage({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const usage = useQuery(keyUsage(id));
  return (
    <Card title={t.keyPage.usage}>
      <Shown of={usage}>
        {(u) => (
          <dl class="figures" data-test="usage">
            {([[t.today, u.daily], [t.month, u.monthly], [t.total, u.total]] as const).map(([name, block]) => (
              <div key={name}>
                <dt>{name}</dt>
                <dd>
                  <Money usd={block.costUsd} />
                </dd>
                <dd class="faint">
                  {t.overview.requestsIn(block.requests, format.compact(block.requests))}
                  <br />
                  {format.compact(block.allTokens)} {t.tokens}
                </dd>
              </div>
            ))}
          </dl>
        )}
      </Shown>
    </Card>
  );
}

function Charts({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const usage = useQuery(keyUsage(id));
  const byDay = useQuery(report({ keyId: id, granularity: "day" }));
  return (
    <div class="columns wide-first">
      <Card title={t.keyPage.byDay}>
        <Shown of={byDay}>
          {(r) => {
            if (r.totals.requests === 0) return <p class="faint">{t.keyPage.noUsage}</p>;
            const last = r.data.at(-1)!.period;
            const today = usage.data ? usage.data.asOf.slice(0, 10) : last;
            const to = today > last ? today : last;
            const periods = days(dayBefore(to, 29), to);
            const costs = new Map(r.data.map((row) => [row.period, row.costUsd]));
            return <Bars title={t.keyPage.byDay} periods={periods} labels={periods.map(format.shortDay)} series={[{ name: t.cost, values: periods.map((p) => costs.get(p) ?? 0) }]} money height={180} />;
          }}
        </Shown>
      </Card>
      <Card title={t.keyPage.byModel}>
        <Shown of={usage}>{(u) => <Models models={u.models} />}</Shown>
      </Card>
    </div>
  );
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

function LiveAdmissions({ id }: { id: string }) {
  const t = useText();
  const may = useMayChange();
  const note = useNotes();
  const list = useQuery(keyAdmissions(id));
  const [asked, setAsked] = useState<string>();
  const release = useMutation({
    mutationFn: (admission: string) => unwrap(api.DELETE("/v1/admissions/{id}", { params: { path: { id: admission } } })),
    onSuccess: () => {
      note({ text: t.keyPage.released });
      setAsked(undefined);
      refresh(id);
    },
  });
  return (
    <Card title={t.keyPage.live}>
      <Shown of={list}>
        {({ data }) =>
          data.length === 0 ? (
            <p class="faint">{t.keyPage.noLive}</p>
          ) : (
            <Table
              caption={t.keyPage.live}
              rows={data}
              rowKey={(a) => a.id}
              columns={[
                { id: "model", head: t.model, first: true, cell: (a) => a.model ?? a.service ?? a.requestId ?? a.id.slice(0, 8) },
                { id: "at", head: t.keyPage.at, wide: true, cell: (a) => <Time iso={a.admittedAt} /> },
                { id: "lease", head: t.keyPage.lease, cell: (a) => <Time iso={a.leaseExpiresAt} fallback="–" /> },
                { id: "cost", head: t.keyPage.reserved, number: true, cell: (a) => <Money usd={a.reservedCost} /> },
                ...(may ? [{ id: "release", head: <span class="sr">{t.actions}</span>, cell: (a: Schemas["LiveAdmission"]) => <Button kind="quiet" onClick={() => setAsked(a.id)}>{t.keyPage.release}</Button> }] : []),
              ]}
            />
          )
        }
      </Shown>
      {asked && <Confirm title={t.keyPage.releaseTitle} text={<p>{t.keyPage.releaseText}</p>} action={t.keyPage.release} danger busy={release.isPending} error={release.error?.message} onConfirm={() => release.mutate(asked)} onClose={() => setAsked(undefined)} />}
    </Card>
  );
}

function Refusals({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const list = useQuery(keyRefusals(id));
  return (
    <Card title={t.keyPage.refusals}>
      <Shown of={list}>
        {({ data }) =>
          data.length === 0 ? (
            <p class="faint">{t.keyPage.noRefusals}</p>
          ) : (
            <ul class="pairs">
              {data.slice(0, 12).map((r) => (
                <li key={r.day + r.code + r.letThrough}>
                  <span title={r.code}>
                    {reasonName(t, r.code)} {r.letThrough && <span class="faint">({t.letThrough})</span>}
                  </span>
                  <span>
                    {format.integer(r.refusals)} <span class="faint">{format.shortDay(r.day)}</span>
                  </span>
                </li>
              ))}
            </ul>
          )
        }
      </Shown>
    </Card>
  );
}

const ledgerRows = 10;

function Events({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const list = useQuery(events({ keyId: id, limit: ledgerRows }));
  const kinds: Record<string, string> = { adjustment: t.keyPage.adjustment, opening: t.keyPage.opening };
  return (
    <Card title={t.keyPage.ledger}>
      <Shown of={list}>
        {({ data }) =>
          data.length === 0 ? (
            <p class="faint">{t.keyPage.noEvents}</p>
          ) : (
            <Table
              caption={t.keyPage.ledger}
              rows={data}
              rowKey={(e) => e.id}
              columns={[
                { id: "at", head: t.keyPage.at, first: true, cell: (e) => <Time iso={e.occurredAt} /> },
                { id: "model", head: t.model, cell: (e) => e.model },
                { id: "account", head: t.account, wide: true, cell: (e) => e.accountId ?? "–" },
                { id: "in", head: t.keyPage.input, number: true, wide: true, cell: (e) => format.integer(e.inputTokens) },
                { id: "out", head: t.keyPage.output, number: true, wide: true, cell: (e) => format.integer(e.outputTokens) },
                { id: "write", head: t.keyPage.cacheWrite, number: true, wide: true, cell: (e) => format.integer(e.cacheCreateTokens) },
                { id: "read", head: t.keyPage.cacheRead, number: true, wide: true, cell: (e) => format.integer(e.cacheReadTokens) },
                {
                  id: "cost",
                  head: t.cost,
                  number: true,
                  cell: (e) => (
                    <>
                      {e.estimated && <Badge tone="warn">{t.keyPage.estimated}</Badge>} {e.kind !== "usage" && <Badge>{kinds[e.kind] ?? e.kind}</Badge>} <Money usd={e.costUsd} />
                    </>
                  ),
                },
              ]}
            />
          )
        }
      </Shown>
    </Card>
  );
}

function Settings({ k }: { k: Key }) {
  const t = useText();
  const format = useFormat();
  const money = (usd: number) => (usd > 0 ? format.money(usd) : t.none);
  const count = (n: number) => (n > 0 ? format.integer(n) : t.none);
  const accounts = [k.claudeAccountId, k.claudeConsoleAccountId, k.geminiAccountId, k.openaiAccountId, k.bedrockAccountId].filter((a) => a !== null);
  const models = !k.enableModelRestriction ? t.form.anyModel : k.allowedModels.length > 0 ? k.allowedModels.join(", ") : t.me.except(k.restrictedModels.join(", "));
  const rows: [string, preact.ComponentChildren][] = [
    [t.form.daily, money(k.dailyCostLimit)],
    [t.form.weekly, money(k.weeklyCostLimit)],
    [t.form.monthly, money(k.monthlyCostLimit)],
    [t.form.totalLimit, money(k.totalCostLimit)],
    [t.form.window, k.rateLimitWindow > 0 ? `${k.rateLimitWindow} ${t.form.minutes}` : t.none],
    [t.form.requests, count(k.rateLimitRequests)],
    [t.form.tokens, count(k.tokenLimit)],
    [t.form.concurrency, count(k.concurrencyLimit)],
    [t.form.services, k.permissions.includes("all") ? t.form.allServices : k.permissions.join(", ")],
    [t.form.models, models],
    [t.form.clients, k.enableClientRestriction && k.allowedClients.length > 0 ? k.allowedClients.join(", ") : t.form.anyClient],
    [t.form.upstream, accounts.length > 0 ? accounts.join(", ") : t.all],
    [t.form.estimate, k.estimatePerRequest === null ? "–" : format.exactMoney(k.estimatePerRequest)],
    [t.form.enforcement, k.enforcement === "observe" ? t.form.observe : t.form.enforce],
    [t.form.tags, k.tags.length > 0 ? k.tags.join(", ") : t.none],
    [t.expires, <Time iso={k.expiresAt} fallback={t.never} exact />],
    [t.created, <><Time iso={k.createdAt} exact /> · {k.createdBy}</>],
    ["ID", <code>{k.id}</code>],
  ];
  return (
    <Card title={t.keyPage.details}>
      <dl class="settings">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </Card>
  );
}

function Secrets({ id }: { id: string }) {
  const t = useText();
  const format = useFormat();
  const list = useQuery(keySecrets(id));
  return (
    <Card title={t.keyPage.secrets}>
      <Shown of={list}>
        {({ data }) => (
          <ul class="pairs">
            {data.map((s) => (
              <li key={s.createdAt}>
                <span>
                  <code>{s.hint}</code> <Time iso={s.createdAt} />
                </span>
                {s.expiresAt ? <Badge tone="warn">{t.keyPage.grace(format.time(s.expiresAt))}</Badge> : <Badge tone="good">{t.keyPage.current}</Badge>}
              </li>
            ))}
          </ul>
        )}
      </Shown>
    </Card>
  );
}

function Rotate({ k }: { k: Key }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  const [grace, setGrace] = useState("86400");
  const rotate = useMutation({
    mutationFn: () => unwrap(api.POST("/v1/keys/{id}/rotate", { params: { path: { id: k.id } }, body: { graceSeconds: Number(grace) } })),
    onSuccess: () => refresh(k.id),
  });
  const close = () => {
    setOpen(false);
    rotate.reset();
  };
  return (
    <>
      <Button onClick={() => setOpen(true)}>{t.keyPage.rotate}</Button>
      {open && !rotate.data && (
        <Confirm
          title={t.keyPage.rotateTitle}
          text={
            <>
              <p>{t.keyPage.rotateText}</p>
              <Select label={t.keyPage.graceName} value={grace} onChange={setGrace} options={Object.entries(t.keyPage.graceOptions).map(([value, text]) => ({ value, text }))} />
            </>
          }
          action={t.keyPage.rotate}
          busy={rotate.isPending}
          error={rotate.error?.message}
          onConfirm={() => rotate.mutate()}
          onClose={close}
        />
      )}
      {rotate.data && (
        <Dialog title={t.issued.title} onClose={close}>
          <Secret secret={rotate.data.apiKey ?? ""} />
          <footer class="dialog-foot">
            <Button kind="primary" onClick={close}>
              {t.issued.done}
            </Button>
          </footer>
        </Dialog>
      )}
    </>
  );
}

function Restore({ id }: { id: string }) {
  const t = useText();
  const note = useNotes();
  const act = useMutation({
    mutationFn: () => restore([id]),
    onSuccess: () => {
      note({ text: t.keys.restored });
      refresh(id);
    },
    onError: (error) => note({ text: error.message, bad: true }),
  });
  return (
    <Button kind="primary" busy={act.isPending} onClick={() => act.mutate()}>
      {t.keys.restore}
    </Button>
  );
}

function Audit({ id }: { id: string }) {
  const t = useText();
  const list = useQuery(keyAudit(id));
  return (
    <Card title={t.keyPage.audit}>
      <Shown of={list}>
        {({ data }) =>
          data.length === 0 ? (
            <p class="faint">{t.keyPage.noAudit}</p>
          ) : (
            <Table
              caption={t.keyPage.audit}
              rows={data.slice(0, 20)}
              rowKey={(e, i) => e.at + i}
              columns={[
                { id: "at", head: t.audit.when, first: true, cell: (e) => <Time iso={e.at} /> },
                { id: "actor", head: t.audit.actor, cell: (e) => e.actor },
                { id: "action", head: t.audit.action, cell: (e) => <code>{e.action}</code> },
                { id: "change", head: t.audit.change, cell: (e) => <Changes entry={e} /> },
              ]}
            />
          )
        }
      </Shown>
    </Card>
  );
}

function Danger({ k }: { k: Key }) {
  const t = useText();
  const note = useNotes();
  const [, go] = useLocation();
  const [asked, setAsked] = useState<"disable" | "remove" | "purge">();
  const path = { params: { path: { id: k.id } } };
  const active = (isActive: boolean) => unwrap(api.PATCH("/v1/keys/{id}", { ...path, body: { isActive } }));
  const act = useMutation({
    mutationFn: async (what: "disable" | "enable" | "remove" | "purge") => {
      if (what === "purge") await unwrap(api.DELETE("/v1/keys/{id}", { params: { ...path.params, query: { purge: true } } }));
      else if (what === "remove") await unwrap(api.DELETE("/v1/keys/{id}", path));
      else await active(what === "enable");
      return what;
    },
    onSuccess: (what) => {
      const text = { disable: t.keys.disabled(1), enable: t.keys.enabled(1), remove: t.keys.removed(1), purge: t.keyPage.purged }[what];
      const back = { disable: () => active(true), remove: () => restore([k.id]), enable: undefined, purge: undefined }[what];
      note({ text, undo: back && (() => back().then(() => refresh(k.id))) });
      setAsked(undefined);
      if (what === "purge") {
        queryClient.removeQueries({ queryKey: ["key", k.id] });
        go("/keys");
        void queryClient.invalidateQueries({ queryKey: ["keys"] });
      } else refresh(k.id);
    },
    onError: (error) => !asked && note({ text: error.message, bad: true }),
  });
  const deleted = k.status === "deleted";
  const texts = {
    disable: { title: t.keys.disableTitle(1), text: t.keyPage.disableText, action: t.keys.disable },
    remove: { title: t.keys.removeTitle(1), text: t.keyPage.removeText, action: t.keys.remove },
    purge: { title: t.keyPage.purgeTitle, text: t.keyPage.purgeText, action: t.keyPage.purge },
  };
  return (
    <Card title={t.keyPage.danger} class="danger-zone">
      <ul class="pairs">
        {!deleted && (
          <li>
            <span>{k.isActive ? t.keyPage.disableText : t.keys.disabled(1)}</span>
            {k.isActive ? <Button onClick={() => setAsked("disable")}>{t.keys.disable}</Button> : <Button busy={act.isPending} onClick={() => act.mutate("enable")}>{t.keys.enable}</Button>}
          </li>
        )}
        {!deleted && (
          <li>
            <span>{t.keyPage.removeText}</span>
            <Button kind="danger" onClick={() => setAsked("remove")}>
              {t.keys.remove}
            </Button>
          </li>
        )}
        <li>
          <span>{t.keyPage.purgeText}</span>
          <Button kind="danger" onClick={() => setAsked("purge")}>
            {t.keyPage.purge}
          </Button>
        </li>
      </ul>
      {asked && <Confirm {...texts[asked]} text={<p>{texts[asked].text}</p>} danger typed={asked === "purge" ? k.name : undefined} busy={act.isPending} error={act.error?.message} onConfirm={() => act.mutate(asked)} onClose={() => setAsked(undefined)} />}
    </Card>
  );
}
