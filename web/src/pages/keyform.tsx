// Making and changing keys. What is checked while a person types are openapi.yaml's rules; the
// service's own answer is shown at the fields it names.
import { useMutation, useQuery } from "@tanstack/preact-query";
import { useEffect, useRef, useState } from "preact/hooks";
import { Link, useLocation } from "wouter-preact";
import { api, fieldErrors, Lost, Problem, unwrap, type Key, type Schemas } from "../api/client";
import { changed as keysChanged } from "../api/keys";
import { clients, key } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { useMayChange, useSession } from "../session";
import { Button, Card, Failed, FormError, Icon, Loading, Page } from "../ui/basics";
import { useNotes } from "../ui/dialog";
import { Area, Check, Group, Input, Select, When } from "../ui/form";
import { accountFields, bodyOf, changesOf, draftOf, emptyDraft, errorsOf, type Draft } from "./keydraft";
import { csv, download, Secret, TryIt, useLeaveWarning } from "./issued";

interface FormProps {
  draft: Draft;
  setDraft: (d: Draft) => void;
  naming: "name" | "batch";
  action: string;
  busy: boolean;
  error: unknown;
  onSend: () => void;
  cancel: string;
}

function KeyForm({ draft, setDraft, naming, action, busy, error, onSend, cancel }: FormProps) {
  const t = useText();
  const form = useRef<HTMLFormElement>(null);
  const [touched, setTouched] = useState<Set<string>>(new Set());
  const [tried, setTried] = useState(false);
  const own = errorsOf(t, draft, naming);
  const theirs = Object.fromEntries(Object.entries(fieldErrors(error)).map(([f, m]) => [f.split("[")[0]!, m])); // tags[2] is in tags
  const show = (f: string) => ((touched.has(f) || tried) && own[f]) || theirs[f] || "";
  const set = (f: string) => (value: string) => {
    setTouched(new Set(touched).add(f));
    setDraft({ ...draft, [f]: value });
  };
  useEffect(() => {
    if (error) form.current?.querySelector<HTMLElement>("[aria-invalid]")?.focus();
  }, [error]);
  const text = (f: string) => ({ value: draft[f] ?? "", onChange: set(f), error: show(f) });
  return (
    <form
      ref={form}
      class="key-form"
      noValidate
      onSubmit={(e) => {
        e.preventDefault();
        setTried(true);
        if (Object.keys(own).length === 0) onSend();
        else setTimeout(() => form.current?.querySelector<HTMLElement>("[aria-invalid]")?.focus());
      }}
    >
      <Basics draft={draft} text={text} set={set} naming={naming} />
      <Limits draft={draft} text={text} creating={naming === "batch" || action === t.form.createAction} />
      <Access draft={draft} text={text} set={set} show={show} />
      <details class="card" open={accountFields.some((f) => draft[f] !== "" || theirs[f]) || draft.enforcement === "observe" || undefined}>
        <summary>{t.form.advanced}</summary>
        <Group legend={t.form.upstream} class="grid">
          {accountFields.map((f) => (
            <Input key={f} label={t.form[f]} {...text(f)} />
          ))}
          <p class="hint whole">{t.form.upstreamHint}</p>
        </Group>
        <div class="grid">
          <Input label={t.form.estimate} hint={t.form.estimateHint} unit="$" inputMode="decimal" {...text("estimatePerRequest")} />
          <Select label={t.form.enforcement} value={draft.enforcement ?? ""} onChange={set("enforcement")} options={[{ value: "enforce", text: t.form.enforce }, { value: "observe", text: t.form.observe }]} />
          <Input label={t.form.alertAt} hint={t.form.alertHint} unit="%" {...text("alertAt")} />
          <Input label={t.form.alertExpiryDays} hint={t.form.alertHint} {...text("alertExpiryDays")} />
        </div>
      </details>
      <div role="alert">
        {tried && Object.keys(own).length > 0 && <p class="form-error">{t.form.fix}</p>}
      </div>
      <FormError error={error instanceof Problem && error.status === 409 ? new Error(t.error.conflict) : error} />
      <footer class="form-foot">
        <Link class="button" href={cancel}>
          {t.cancel}
        </Link>
        <Button type="submit" kind="primary" busy={busy}>
          {action}
        </Button>
      </footer>
    </form>
  );
}

type TextOf = (f: string) => { value: string; onChange: (v: string) => void; error: string };

function Basics({ draft, text, set, naming }: { draft: Draft; text: TextOf; set: (f: string) => (v: string) => void; naming: "name" | "batch" }) {
  const t = useText();
  return (
    <Card title={t.form.basics}>
      <div class="grid">
        {naming === "name" ? (
          <Input label={t.form.name} required autofocus {...text("name")} />
        ) : (
          <>
            <Input label={t.form.baseName} hint={t.form.baseNameHint} required autofocus {...text("baseName")} />
            <Input label={t.form.count} inputMode="numeric" required {...text("count")} />
          </>
        )}
        <Input label={t.form.description} {...text("description")} />
        <Area label={t.form.tags} hint={t.form.tagsHint} rows={1} {...text("tags")} />
        <When label={t.form.expiresAt} hint={t.form.expiresHint} {...text("expiresAt")} />
      </div>
      <Check label={t.form.active} checked={draft.isActive === "yes"} onChange={(on) => set("isActive")(on ? "yes" : "no")} />
    </Card>
  );
}

function Limits({ draft, text, creating }: { draft: Draft; text: TextOf; creating: boolean }) {
  const t = useText();
  const format = useFormat();
  const { defaultTokenLimit } = useSession();
  const money = (f: string, label: string) => <Input label={label} unit="$" inputMode="decimal" placeholder="–" {...text(f)} />;
  const windowless = draft.rateLimitWindow?.trim() === "" || draft.rateLimitWindow?.trim() === "0";
  const needs = (f: string) => (windowless && draft[f]?.trim() ? t.form.needsWindow : undefined);
  return (
    <>
      <Card title={t.form.costLimits}>
        <p class="hint">{t.form.costHint}</p>
        <div class="grid four">
          {money("dailyCostLimit", t.form.daily)}
          {money("weeklyCostLimit", t.form.weekly)}
          {money("monthlyCostLimit", t.form.monthly)}
          {money("totalCostLimit", t.form.totalLimit)}
        </div>
      </Card>
      <Card title={t.form.rate}>
        <p class="hint">{t.form.windowHint}</p>
        <div class="grid four">
          <Input label={t.form.window} unit={t.form.minutes} inputMode="numeric" placeholder="–" {...text("rateLimitWindow")} />
          <Input label={t.form.requests} hint={needs("rateLimitRequests")} inputMode="numeric" placeholder="–" {...text("rateLimitRequests")} />
          <Input label={t.form.tokens} hint={needs("tokenLimit") ?? (creating && !windowless ? t.form.tokensDefault(format.integer(defaultTokenLimit)) : undefined)} inputMode="numeric" placeholder="–" {...text("tokenLimit")} />
          <Input label={t.form.concurrency} inputMode="numeric" placeholder="–" {...text("concurrencyLimit")} />
        </div>
      </Card>
    </>
  );
}

function Access({ draft, text, set, show }: { draft: Draft; text: TextOf; set: (f: string) => (v: string) => void; show: (f: string) => string }) {
  const t = useText();
  const { services } = useSession();
  const programs = useQuery(clients());
  const chosen = draft.services.split(",");
  const all = chosen.includes("all");
  const toggle = (list: string, one: string, on: boolean) => [...list.split(",").filter((s) => s !== "" && s !== one && s !== "all"), ...(on ? [one] : [])].join(",");
  return (
    <Card title={t.form.access}>
      <Group legend={t.form.services}>
        <div class="checks-row">
          <Check label={t.form.allServices} checked={all} onChange={(on) => set("services")(on ? "all" : "")} />
          {services.map((s) => (
            <Check key={s} label={s} checked={all || chosen.includes(s)} disabled={all} onChange={(on) => set("services")(toggle(draft.services, s, on))} />
          ))}
        </div>
        {show("permissions") && <p class="field-error">{show("permissions")}</p>}
      </Group>
      <div class="grid">
        <Select
          label={t.form.models}
          value={draft.models}
          onChange={set("models")}
          options={[
            { value: "any", text: t.form.anyModel },
            { value: "allow", text: t.form.allowModels },
            { value: "deny", text: t.form.denyModels },
            { value: "both", text: t.form.someModels },
          ]}
        />
        {(draft.models === "allow" || draft.models === "both") && <Area label={t.form.allowList} hint={t.form.modelHint} rows={3} {...text("allowedModels")} />}
        {(draft.models === "deny" || draft.models === "both") && <Area label={t.form.denyList} hint={draft.restrictedModels?.trim() === "" ? t.form.noModels : t.form.modelHint} rows={3} {...text("restrictedModels")} />}
      </div>
      <div class="grid">
        <Select label={t.form.clients} value={draft.clients ?? ""} onChange={set("clients")} options={[{ value: "any", text: t.form.anyClient }, { value: "some", text: t.form.someClients }]} />
        {draft.clients === "some" && (
          <Group legend={t.form.someClients}>
            <div class="checks-row">
              {(programs.data?.data ?? []).map((c) => (
                <Check key={c.id} label={c.name} checked={(draft.allowedClients ?? "").split(",").includes(c.id)} onChange={(on) => set("allowedClients")(toggle(draft.allowedClients ?? "", c.id, on))} />
              ))}
            </div>
            {show("allowedClients") && <p class="field-error">{show("allowedClients")}</p>}
          </Group>
        )}
      </div>
    </Card>
  );
}

/** Only lets an admin through: others are told that they may not. */
function Only({ title, children }: { title: string; children: preact.ComponentChildren }) {
  const t = useText();
  if (useMayChange()) return <>{children}</>;
  return (
    <Page title={title} back={{ href: "/keys", text: t.keys.title }}>
      <Failed error={new Problem(403, "FORBIDDEN", "", "", {})} />
    </Page>
  );
}

export function CreateKey() {
  const t = useText();
  const [draft, setDraft] = useState(emptyDraft);
  const [attempt, setAttempt] = useState(() => crypto.randomUUID?.() ?? String(Math.random()));
  const create = useMutation({
    // The same attempt, sent again after an answer that was lost, makes no second key.
    mutationFn: () => unwrap(api.POST("/v1/keys", { params: { header: { "Idempotency-Key": attempt } }, body: { name: draft.name!.trim(), ...bodyOf(draft, true) } })),
    onSuccess: keysChanged,
    onError: (error) => error instanceof Problem && setAttempt(`${attempt}.`),
  });
  if (create.data) {
    const made = create.data;
    return (
      <Page title={t.issued.title} lead={made.name}>
        <Card>
          <Secret secret={made.apiKey ?? ""} />
          <TryIt id={made.id} secret={made.apiKey ?? ""} />
          <footer class="form-foot">
            <Link class="button" href={`/keys/${made.id}`}>
              {t.issued.open}
            </Link>
            <Link class="button primary" href="/keys" data-copied>
              {t.issued.done}
            </Link>
          </footer>
        </Card>
      </Page>
    );
  }
  return (
    <Only title={t.form.createTitle}>
      <Page title={t.form.createTitle} lead={t.form.createLead} back={{ href: "/keys", text: t.keys.title }}>
        <KeyForm draft={draft} setDraft={setDraft} naming="name" action={t.form.createAction} busy={create.isPending} error={create.error} onSend={() => create.mutate()} cancel="/keys" />
      </Page>
    </Only>
  );
}

export function CreateBatch() {
  const t = useText();
  const [draft, setDraft] = useState(emptyDraft);
  const create = useMutation({
    mutationFn: () => unwrap(api.POST("/v1/keys/batch", { body: { baseName: draft.baseName!.trim(), count: Number(draft.count), ...bodyOf(draft, true) } })),
    onSuccess: keysChanged,
  });
  if (create.data) return <Batch made={create.data.data} />;
  return (
    <Only title={t.keys.batch}>
      <Page title={t.keys.batch} lead={t.form.createLead} back={{ href: "/keys", text: t.keys.title }}>
        <KeyForm draft={draft} setDraft={setDraft} naming="batch" action={t.form.createMany(draft.count ?? "")} busy={create.isPending} error={create.error instanceof Lost ? new Error(t.issued.unsure) : create.error} onSend={() => create.mutate()} cancel="/keys" />
      </Page>
    </Only>
  );
}

function Batch({ made }: { made: Schemas["IssuedKey"][] }) {
  const t = useText();
  const [saved, setSaved] = useState(false);
  useLeaveWarning(!saved);
  const file = () => csv([["name", "apiKey", "id", "expiresAt"], ...made.map((k) => [k.name, k.apiKey ?? "", k.id, k.expiresAt ?? ""])]);
  return (
    <Page title={t.issued.many(made.length)}>
      <Card>
        <p class="banner warn">
          <Icon name="warn" /> {t.issued.manyWarning}
        </p>
        <ul class="secrets-list">
          {made.slice(0, 5).map((k) => (
            <li key={k.id}>
              {k.name} <code>{k.apiKey}</code>
            </li>
          ))}
          {made.length > 5 && <li>…</li>}
        </ul>
        <footer class="form-foot">
          <Link class="button" href="/keys">
            {t.keys.title}
          </Link>
          <Button kind="primary" 
            onClick={() => {
              download(`keys-${made[0]?.name ?? ""}.csv`, file());
              setSaved(true);
            }}
          >
            <Icon name="download" /> {t.issued.download}
          </Button>
        </footer>
      </Card>
    </Page>
  );
}

export function EditKey({ id }: { id: string }) {
  const t = useText();
  const asked = useQuery({ ...key(id), refetchInterval: false, refetchOnWindowFocus: false });
  return (
    <Only title={t.keyPage.edit}>
      {asked.data ? (
        <Edit k={asked.data} />
      ) : (
        <Page title={t.keyPage.edit} back={{ href: "/keys", text: t.keys.title }}>
          {asked.error ? <Failed error={asked.error} /> : <Loading lines={6} />}
        </Page>
      )}
    </Only>
  );
}

function Edit({ k }: { k: Key }) {
  const t = useText();
  const note = useNotes();
  const [, go] = useLocation();
  const [before] = useState(() => ({ draft: draftOf(k), key: k }));
  const [draft, setDraft] = useState(before.draft);
  const save = useMutation({
    mutationFn: async () => {
      const changed = changesOf(before.key, before.draft, draft);
      if (Object.keys(changed).length === 0) return false;
      await unwrap(api.PATCH("/v1/keys/{id}", { params: { path: { id: k.id }, header: { "If-Match": `"${before.key.version}"` } }, body: changed as Schemas["KeyUpdate"] }));
      return true;
    },
    onSuccess: (changed) => {
      keysChanged();
      note({ text: changed ? t.form.saved : t.form.nothing });
      go(`/keys/${k.id}`);
    },
  });
  return (
    <Page title={t.form.editTitle(k.name)} back={{ href: `/keys/${k.id}`, text: k.name }}>
      <KeyForm draft={draft} setDraft={setDraft} naming="name" action={t.save} busy={save.isPending} error={save.error} onSend={() => save.mutate()} cancel={`/keys/${k.id}`} />
    </Page>
  );
}
