import { useMutation } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { api, fieldErrors, unwrap, type Schemas } from "../api/client";
import { queryClient } from "../api/queries";
import { dayBefore, todayIn } from "../days";
import { useText } from "../i18n";
import { useSession } from "../session";
import { Button, FormError, Money } from "../ui/basics";
import { Dialog, useNotes } from "../ui/dialog";
import { half, Input, When } from "../ui/form";
import { Table } from "../ui/table";

/** Reprice prices past days again: first what would change, then the corrections. */
export function Reprice({ onClose }: { onClose: () => void }) {
  const t = useText();
  const note = useNotes();
  const today = todayIn(useSession().timezone);
  const [asked, setAsked] = useState({ from: dayBefore(today, 6), to: today, model: "" });
  const send = useMutation({
    mutationFn: (dryRun: boolean) => unwrap(api.POST("/v1/prices/reprice", { body: { from: asked.from, to: asked.to, model: asked.model.trim() || undefined, dryRun } })),
    onSuccess: (answer) => {
      if (answer.dryRun) return;
      note({ text: t.prices.repriceDone(answer.changed) });
      void queryClient.invalidateQueries();
      onClose();
    },
  });
  const theirs = fieldErrors(send.error);
  const text = (f: keyof typeof asked) => ({
    value: asked[f],
    error: theirs[f],
    onChange: (v: string) => {
      setAsked({ ...asked, [f]: v });
      send.reset();
    },
  });
  const preview = send.data;
  return (
    <Dialog title={t.prices.repriceTitle} onClose={onClose} wide>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          if (asked.from !== half && asked.to !== half) send.mutate(!preview);
        }}
      >
        <p class="faint">{t.prices.repriceLead}</p>
        <div class="grid">
          <When kind="date" label={t.prices.fromDay} required {...text("from")} />
          <When kind="date" label={t.prices.toDay} required {...text("to")} />
          <Input label={t.prices.onlyModel} {...text("model")} />
        </div>
        <FormError error={send.error} />
        {preview && <Preview of={preview} />}
        <footer class="dialog-foot">
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button type="submit" kind="primary" busy={send.isPending} disabled={preview?.changed === 0}>
            {preview && preview.changed > 0 ? t.prices.repriceApply : t.prices.dryRun}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

function Preview({ of }: { of: Schemas["RepriceAnswer"] }) {
  const t = useText();
  return (
    <div aria-live="polite" data-test="preview">
      <p>
        <strong>{of.changed === 0 ? t.prices.repriceNone : t.prices.repriceResult(of.events, of.changed)}</strong>
        {of.changed > 0 && (
          <>
            {" "}
            <Money usd={of.costBefore} /> → <Money usd={of.costAfter} />
          </>
        )}
      </p>
      {of.changes.length > 0 && (
        <div class="scroll-part">
          <Table
            caption={t.prices.dryRun}
            rows={of.changes}
            rowKey={(c) => c.keyId + c.model}
            columns={[
              { id: "key", head: t.key, first: true, cell: (c) => c.keyName || c.keyId.slice(0, 8) },
              { id: "model", head: t.model, cell: (c) => c.model },
              { id: "before", head: t.prices.before, number: true, cell: (c) => <Money usd={c.costBefore} /> },
              { id: "after", head: t.prices.after, number: true, cell: (c) => <Money usd={c.costAfter} /> },
            ]}
          />
        </div>
      )}
    </div>
  );
}
