import { useMutation, useQuery } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { Link, useLocation } from "wouter-preact";
import { useAddress } from "../address";
import { api, fieldErrors, unwrap, type Schemas } from "../api/client";
import { deliveries, queryClient, webhooks } from "../api/queries";
import { useText } from "../i18n";
import { useMayChange } from "../session";
import { Badge, Button, Card, Empty, Facts, FormError, Page, Shown, Time } from "../ui/basics";
import { Confirm, Dialog, useNotes } from "../ui/dialog";
import { Check, Group, Input, Select } from "../ui/form";
import { Pager, Table, usePages } from "../ui/table";
import { Secret } from "./issued";

type Webhook = Schemas["Webhook"];
type EventType = Schemas["EventType"];
type Format = Schemas["WebhookFormat"];
type State = Schemas["Delivery"]["state"];

const events: EventType[] = ["key.limit_reached", "key.expiring", "key.expired", "key.created", "key.updated", "key.deleted", "key.rotated", "model.unpriced", "usage.recorded"];
const formats: Format[] = ["standard", "cloudevents", "slack", "discord", "feishu", "dingtalk", "wecom"];
const states: State[] = ["pending", "delivered", "dead"];

const reload = () => void queryClient.invalidateQueries({ queryKey: ["webhooks"] });

export function Webhooks() {
  const t = useText();
  const may = useMayChange();
  const list = useQuery(webhooks());
  const [creating, setCreating] = useState(false);
  const create = may && (
    <Button kind="primary" onClick={() => setCreating(true)}>
      {t.webhooks.create}
    </Button>
  );
  return (
    <Page title={t.webhooks.title} lead={t.webhooks.lead} actions={create}>
      <Card class="flush">
        <Shown of={list} lines={4}>
          {({ data }) =>
            data.length === 0 ? (
              <Empty title={t.webhooks.empty} />
            ) : (
              <Table
                caption={t.webhooks.title}
                rows={data}
                rowKey={(w) => w.id}
                columns={[
                  { id: "url", head: t.webhooks.address, first: true, cell: (w) => <Link href={`/webhooks/${w.id}`}>{hostOf(w.url)}</Link> },
                  { id: "format", head: t.webhooks.format, cell: (w) => t.webhooks.formats[w.format] },
                  { id: "state", head: t.statusName, cell: (w) => <OnOff w={w} /> },
                  { id: "events", head: t.webhooks.events, wide: true, cell: (w) => w.events.map((e) => t.webhooks.kinds[e]).join(", ") },
                  { id: "pending", head: t.webhooks.pending, number: true, wide: true, cell: (w) => w.pending },
                  { id: "last", head: t.webhooks.last, wide: true, cell: (w) => <Time iso={w.deliveredAt} fallback={t.never} /> },
                ]}
              />
            )
          }
        </Shown>
      </Card>
      {creating && <Edit onClose={() => setCreating(false)} />}
    </Page>
  );
}

/** hostOf is the host of an address: the rest of it is a secret of many chats. */
function hostOf(address: string): string {
  return URL.canParse(address) ? new URL(address).host : address;
}

function OnOff({ w }: { w: Webhook }) {
  const t = useText();
  if (!w.isActive) return <Badge>{t.webhooks.off}</Badge>;
  return w.dead > 0 ? <Badge tone="warn">{t.webhooks.someDead(w.dead)}</Badge> : <Badge tone="good">{t.webhooks.on}</Badge>;
}

/** Edit makes a webhook, or changes one. */
function Edit({ w, onClose }: { w?: Webhook; onClose: () => void }) {
  const t = useText();
  const note = useNotes();
  const [url, setUrl] = useState(w?.url ?? "");
  const [format, setFormat] = useState<Format>(w?.format ?? "standard");
  const [chosen, setChosen] = useState<EventType[]>(w?.events ?? ["key.limit_reached", "key.expiring"]);
  const [tried, setTried] = useState(false);
  const wrongUrl = /^https?:\/\/[^\s/]+\S*$/.test(url.trim()) ? "" : t.webhooks.wrongAddress;
  const wrongEvents = chosen.length === 0 ? t.webhooks.noEvents : "";
  const body = { url: url.trim(), format, events: chosen };
  const save = useMutation({
    mutationFn: () =>
      w ? unwrap(api.PATCH("/v1/webhooks/{id}", { params: { path: { id: w.id } }, body })) : unwrap(api.POST("/v1/webhooks", { body })),
    onSuccess: () => {
      reload();
      if (w) {
        note({ text: t.form.saved });
        onClose();
      }
    },
  });
  const theirs = fieldErrors(save.error);
  if (!w && save.data) return <Made made={save.data as Schemas["IssuedWebhook"]} onClose={onClose} />;
  return (
    <Dialog title={w ? t.webhooks.edit : t.webhooks.create} onClose={onClose}>
      <form
        noValidate
        onSubmit={(e) => {
          e.preventDefault();
          setTried(true);
          if (!wrongUrl && !wrongEvents) save.mutate();
        }}
      >
        <Input label={t.webhooks.address} hint={t.webhooks.addressHint} inputMode="url" value={url} onChange={setUrl} error={(tried ? wrongUrl : "") || theirs.url} />
        <Select label={t.webhooks.format} value={format} onChange={(f) => setFormat(f as Format)} options={formats.map((f) => ({ value: f, text: t.webhooks.formats[f] }))} />
        <Group legend={t.webhooks.events}>
          {events.map((e) => (
            <Check key={e} label={t.webhooks.kinds[e]} checked={chosen.includes(e)} onChange={(on) => setChosen(events.filter((x) => (x === e ? on : chosen.includes(x))))} />
          ))}
          {tried && wrongEvents && <p class="field-error">{wrongEvents}</p>}
        </Group>
        <FormError error={save.error} />
        <footer class="dialog-foot">
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button type="submit" kind="primary" busy={save.isPending}>
            {w ? t.save : t.webhooks.create}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

function Made({ made, onClose }: { made: { url: string; secret: string }; onClose: () => void }) {
  const t = useText();
  return (
    <Dialog title={t.webhooks.made} onClose={onClose} once>
      <p class="dialog-text">{t.webhooks.secretHint}</p>
      <Secret secret={made.secret} label={hostOf(made.url)} />
      <footer class="dialog-foot">
        <Button kind="primary" onClick={onClose}>
          {t.issued.done}
        </Button>
      </footer>
    </Dialog>
  );
}

export function WebhookPage({ id }: { id: string }) {
  const t = useText();
  const list = useQuery(webhooks());
  const w = list.data?.data.find((x) => x.id === id);
  const back = { href: "/webhooks", text: t.webhooks.title };
  return w ? (
    <One w={w} />
  ) : (
    <Page title={t.webhooks.title} back={back}>
      <Shown of={list}>{() => <Empty title={t.error.notFoundText} />}</Shown>
    </Page>
  );
}

function One({ w }: { w: Webhook }) {
  const t = useText();
  const may = useMayChange();
  const [asked, setAsked] = useState<"edit" | "secret" | "delete">();
  return (
    <Page title={hostOf(w.url)} back={{ href: "/webhooks", text: t.webhooks.title }} actions={may && <Actions w={w} ask={setAsked} />}>
      <Card>
        <Facts
          of={[
            [t.webhooks.address, <code class="breaks">{w.url}</code>],
            [t.webhooks.format, t.webhooks.formats[w.format]],
            [t.statusName, <OnOff w={w} />],
            [t.webhooks.events, w.events.map((e) => t.webhooks.kinds[e]).join(", ")],
            [t.created, <Time iso={w.createdAt} />],
          ]}
        />
        {w.disabledFor && <p class="banner warn">{w.disabledFor}</p>}
      </Card>
      <Deliveries w={w} />
      {asked === "edit" && <Edit w={w} onClose={() => setAsked(undefined)} />}
      {asked === "secret" && <NewSecret w={w} onClose={() => setAsked(undefined)} />}
      {asked === "delete" && <Delete w={w} onClose={() => setAsked(undefined)} />}
    </Page>
  );
}

function Actions({ w, ask }: { w: Webhook; ask: (what: "edit" | "secret" | "delete") => void }) {
  const t = useText();
  const note = useNotes();
  const failed = (error: Error) => note({ text: error.message, bad: true });
  const test = useMutation({
    mutationFn: () => unwrap(api.POST("/v1/webhooks/{id}/test", { params: { path: { id: w.id } } })),
    onSuccess: () => {
      note({ text: t.webhooks.testSent });
      void queryClient.invalidateQueries({ queryKey: ["deliveries", w.id] });
    },
    onError: failed,
  });
  const toggle = useMutation({
    mutationFn: () => unwrap(api.PATCH("/v1/webhooks/{id}", { params: { path: { id: w.id } }, body: { isActive: !w.isActive } })),
    onSuccess: reload,
    onError: failed,
  });
  return (
    <>
      <Button kind="primary" disabled={!w.isActive} busy={test.isPending} onClick={() => test.mutate()}>
        {t.webhooks.test}
      </Button>
      <Button onClick={() => ask("edit")}>{t.webhooks.edit}</Button>
      <Button busy={toggle.isPending} onClick={() => toggle.mutate()}>
        {w.isActive ? t.webhooks.switchOff : t.webhooks.switchOn}
      </Button>
      <Button onClick={() => ask("secret")}>{t.webhooks.newSecret}</Button>
      <Button kind="danger" onClick={() => ask("delete")}>
        {t.webhooks.delete}
      </Button>
    </>
  );
}

function NewSecret({ w, onClose }: { w: Webhook; onClose: () => void }) {
  const t = useText();
  const make = useMutation({ mutationFn: () => unwrap(api.PATCH("/v1/webhooks/{id}", { params: { path: { id: w.id } }, body: { newSecret: true } })) });
  if (make.data?.secret) return <Made made={{ url: w.url, secret: make.data.secret }} onClose={onClose} />;
  return <Confirm title={t.webhooks.newSecret} text={<p>{t.webhooks.newSecretText}</p>} action={t.webhooks.newSecret} busy={make.isPending} error={make.error} onConfirm={() => make.mutate()} onClose={onClose} />;
}

function Delete({ w, onClose }: { w: Webhook; onClose: () => void }) {
  const t = useText();
  const note = useNotes();
  const [, go] = useLocation();
  const remove = useMutation({
    mutationFn: () => unwrap(api.DELETE("/v1/webhooks/{id}", { params: { path: { id: w.id } } })),
    onSuccess: () => {
      note({ text: t.webhooks.deleted });
      reload();
      go("/webhooks");
    },
  });
  return <Confirm title={t.webhooks.deleteTitle} text={<p>{t.webhooks.deleteText}</p>} action={t.webhooks.delete} danger busy={remove.isPending} error={remove.error} onConfirm={() => remove.mutate()} onClose={onClose} />;
}

const tones = { pending: "neutral", delivered: "good", dead: "bad" } as const;

function Deliveries({ w }: { w: Webhook }) {
  const t = useText();
  const may = useMayChange();
  const note = useNotes();
  const kindOf = (type: string) => (t.webhooks.kinds as Record<string, string>)[type] ?? type;
  const [said, set] = useAddress();
  const state = (said("state") as State) || undefined;
  const pages = usePages(`${w.id} ${state}`);
  const list = useQuery(deliveries(w.id, { state, cursor: pages.cursor, limit: 50 }));
  const retry = useMutation({
    mutationFn: (eventId: string) => unwrap(api.POST("/v1/webhooks/{id}/deliveries/{eventId}/retry", { params: { path: { id: w.id, eventId } } })),
    onSuccess: () => {
      note({ text: t.webhooks.again });
      void queryClient.invalidateQueries({ queryKey: ["deliveries", w.id] });
    },
    onError: (error) => note({ text: error.message, bad: true }),
  });
  return (
    <Card
      class="flush"
      title={t.webhooks.deliveries}
      actions={<Select label={<span class="sr">{t.statusName}</span>} value={state ?? ""} onChange={(s) => set({ state: s })} options={[{ value: "", text: t.webhooks.anyState }, ...states.map((s) => ({ value: s, text: t.webhooks.states[s] }))]} />}
    >
      <Shown of={list} lines={4}>
        {({ data, nextCursor }) =>
          data.length === 0 ? (
            <Empty title={t.webhooks.noDeliveries} />
          ) : (
            <>
              <Table
                caption={t.webhooks.deliveries}
                rows={data}
                rowKey={(d) => d.eventId}
                stale={list.isPlaceholderData}
                columns={[
                  { id: "at", head: t.audit.when, first: true, cell: (d) => <Time iso={d.at} /> },
                  { id: "type", head: t.webhooks.event, cell: (d) => (d.keyId ? <Link href={`/keys/${d.keyId}`}>{kindOf(d.type)}</Link> : kindOf(d.type)) },
                  { id: "state", head: t.statusName, cell: (d) => <Badge tone={tones[d.state]}>{t.webhooks.states[d.state]}</Badge> },
                  { id: "error", head: t.webhooks.result, cell: (d) => d.lastError || (d.lastStatus ? String(d.lastStatus) : "–") },
                  { id: "tries", head: t.webhooks.tries, number: true, wide: true, cell: (d) => d.attempts },
                  { id: "next", head: t.webhooks.next, wide: true, cell: (d) => <Time iso={d.nextAt} /> },
                  ...(may ? [{ id: "act", head: <span class="sr">{t.actions}</span>, cell: (d: Schemas["Delivery"]) => <Button kind="quiet" onClick={() => retry.mutate(d.eventId)}>{t.webhooks.retry}</Button> }] : []),
                ]}
              />
              <Pager pages={pages} nextCursor={nextCursor} stale={list.isPlaceholderData} />
            </>
          )
        }
      </Shown>
    </Card>
  );
}
