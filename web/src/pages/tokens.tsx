import { useMutation, useQuery } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { api, fieldErrors, unwrap, type Schemas } from "../api/client";
import { queryClient, tokens } from "../api/queries";
import { useText } from "../i18n";
import { useMayChange, useSession } from "../session";
import { Badge, Button, Card, FormError, Page, Shown, Status, Time } from "../ui/basics";
import { Confirm, Dialog, useNotes } from "../ui/dialog";
import { check, half, Input, instantOf, Select, When } from "../ui/form";
import { Table } from "../ui/table";
import { Secret } from "./issued";

type Token = Schemas["Token"];
type Role = Schemas["Role"];
const roles: Role[] = ["reader", "relay", "admin"];

export function Tokens() {
  const t = useText();
  const may = useMayChange();
  const who = useSession();
  const note = useNotes();
  const list = useQuery(tokens());
  const [creating, setCreating] = useState(false);
  const [asked, setAsked] = useState<Token>();
  const revoke = useMutation({
    mutationFn: (id: string) => unwrap(api.DELETE("/v1/tokens/{id}", { params: { path: { id } } })),
    onSuccess: () => {
      note({ text: t.access.revoked });
      setAsked(undefined);
      void queryClient.invalidateQueries({ queryKey: ["tokens"] });
    },
  });
  return (
    <Page
      title={t.access.title}
      lead={t.access.lead}
      actions={
        may && (
          <Button kind="primary" onClick={() => setCreating(true)}>
            {t.access.create}
          </Button>
        )
      }
    >
      <Card class="flush">
        <Shown of={list} lines={5}>
          {({ data }) => (
            <Table
              caption={t.access.title}
              rows={data}
              rowKey={(x) => x.id}
              columns={[
                {
                  id: "name",
                  head: t.name,
                  first: true,
                  cell: (x) => (
                    <>
                      {x.name} {x.id === who.id && <Badge tone="good">{t.access.you}</Badge>}
                      <code class="faint">{x.hint}</code>
                    </>
                  ),
                },
                { id: "role", head: t.role, cell: (x) => t.roles[x.role] },
                { id: "status", head: t.statusName, cell: (x) => <Status status={x.status} /> },
                { id: "created", head: t.created, wide: true, cell: (x) => <Time iso={x.createdAt} /> },
                { id: "expires", head: t.expires, wide: true, cell: (x) => <Time iso={x.expiresAt} fallback={t.never} /> },
                ...(may ? [{ id: "act", head: <span class="sr">{t.actions}</span>, cell: (x: Token) => x.status === "active" && <Button kind="quiet" onClick={() => setAsked(x)}>{t.access.revoke}</Button> }] : []),
              ]}
            />
          )}
        </Shown>
      </Card>
      {creating && <Create onClose={() => setCreating(false)} />}
      {asked && (
        <Confirm
          title={t.access.revokeTitle(asked.name)}
          text={
            <>
              <p>{t.access.revokeText}</p>
              {asked.id === who.id && <p class="banner warn">{t.access.revokeOwn}</p>}
            </>
          }
          action={t.access.revoke}
          danger
          busy={revoke.isPending}
          error={revoke.error}
          onConfirm={() => revoke.mutate(asked.id)}
          onClose={() => {
            setAsked(undefined);
            revoke.reset();
          }}
        />
      )}
    </Page>
  );
}

function Create({ onClose }: { onClose: () => void }) {
  const t = useText();
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>("reader");
  const [expiresAt, setExpiresAt] = useState("");
  const [tried, setTried] = useState(false);
  const end = instantOf(expiresAt);
  const wrongName = check(t, "name", name, true);
  const wrongEnd = expiresAt === half ? t.rule.half : end && new Date(end) <= new Date() ? t.rule.future : "";
  const create = useMutation({
    mutationFn: () => unwrap(api.POST("/v1/tokens", { body: { name: name.trim(), role, expiresAt: end } })),
    onSuccess: () => void queryClient.invalidateQueries({ queryKey: ["tokens"] }),
  });
  const theirs = fieldErrors(create.error);
  if (create.data) {
    return (
      <Dialog title={t.access.issued} onClose={onClose} once>
        <Secret secret={create.data.token} label={create.data.name} />
        <footer class="dialog-foot">
          <Button kind="primary" onClick={onClose}>
            {t.issued.done}
          </Button>
        </footer>
      </Dialog>
    );
  }
  return (
    <Dialog title={t.access.createTitle} onClose={onClose}>
      <form
        noValidate
        onSubmit={(e) => {
          e.preventDefault();
          setTried(true);
          if (!wrongName && !wrongEnd) create.mutate();
        }}
      >
        <Input label={t.name} value={name} onChange={setName} error={(tried ? wrongName : "") || theirs.name} />
        <Select label={t.role} hint={t.access.roleHint[role]} value={role} onChange={(v) => setRole(v as Role)} options={roles.map((r) => ({ value: r, text: t.roles[r] }))} />
        <When label={t.form.expiresAt} hint={t.access.expiresHint} value={expiresAt} onChange={setExpiresAt} error={wrongEnd || theirs.expiresAt} />
        <FormError error={create.error} />
        <footer class="dialog-foot">
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button type="submit" kind="primary" busy={create.isPending}>
            {t.access.create}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}
