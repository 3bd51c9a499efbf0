// What can be done to a key from its page.
import { useMutation, useQuery } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { useLocation } from "wouter-preact";
import { api, unwrap, type Key, type Schemas } from "../api/client";
import { changed, restore } from "../api/keys";
import { keyAdmissions, queryClient } from "../api/queries";
import { useText } from "../i18n";
import { useMayChange } from "../session";
import { Button, Card, messageOf, Money, Shown, Time } from "../ui/basics";
import { Confirm, Dialog, useNotes } from "../ui/dialog";
import { Select } from "../ui/form";
import { Table } from "../ui/table";
import { Secret } from "./issued";

export function LiveAdmissions({ id }: { id: string }) {
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
      changed();
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
      {asked && <Confirm title={t.keyPage.releaseTitle} text={<p>{t.keyPage.releaseText}</p>} action={t.keyPage.release} danger busy={release.isPending} error={release.error} onConfirm={() => release.mutate(asked)} onClose={() => (setAsked(undefined), release.reset())} />}
    </Card>
  );
}

export function Rotate({ k }: { k: Key }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  const [grace, setGrace] = useState("86400");
  const rotate = useMutation({
    mutationFn: () => unwrap(api.POST("/v1/keys/{id}/rotate", { params: { path: { id: k.id } }, body: { graceSeconds: Number(grace) } })),
    onSuccess: changed,
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
          error={rotate.error}
          onConfirm={() => rotate.mutate()}
          onClose={close}
        />
      )}
      {rotate.data && (
        <Dialog title={t.issued.title} onClose={close} once>
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

export function Restore({ id }: { id: string }) {
  const t = useText();
  const note = useNotes();
  const act = useMutation({
    mutationFn: () => restore([id]),
    onSuccess: () => {
      note({ text: t.keys.restored });
      changed();
    },
    onError: (error) => note({ text: messageOf(t, error), bad: true }),
  });
  return (
    <Button kind="primary" busy={act.isPending} onClick={() => act.mutate()}>
      {t.keys.restore}
    </Button>
  );
}

export function Danger({ k }: { k: Key }) {
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
      note({ text, undo: back && (() => back().then(() => changed())) });
      setAsked(undefined);
      if (what === "purge") {
        queryClient.removeQueries({ queryKey: ["key", k.id] });
        go("/keys");
      }
      changed();
    },
    onError: (error) => !asked && note({ text: messageOf(t, error), bad: true }),
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
      {asked && <Confirm {...texts[asked]} text={<p>{texts[asked].text}</p>} danger typed={asked === "purge" ? k.name : undefined} busy={act.isPending} error={act.error} onConfirm={() => act.mutate(asked)} onClose={() => (setAsked(undefined), act.reset())} />}
    </Card>
  );
}
