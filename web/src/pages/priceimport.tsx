import { useMutation } from "@tanstack/preact-query";
import { useId, useState } from "preact/hooks";
import { api, Problem, unwrap, type Schemas } from "../api/client";
import { queryClient } from "../api/queries";
import { useFormat, useText } from "../i18n";
import { Badge, Button, messageOf } from "../ui/basics";
import { Dialog, useNotes } from "../ui/dialog";
import { half, instantOf, When } from "../ui/form";
import { Table } from "../ui/table";

/** ImportPrices reads a price file, shows what it would change, and then changes it. */
export function ImportPrices({ onClose }: { onClose: () => void }) {
  const t = useText();
  const note = useNotes();
  const id = useId();
  const [file, setFile] = useState<File>();
  const [from, setFrom] = useState("");
  const send = useMutation({
    mutationFn: async (dryRun: boolean) => {
      let body: Record<string, unknown>;
      try {
        body = JSON.parse(await file!.text());
      } catch {
        throw new Problem(422, "", t.prices.notJson, "", {});
      }
      return unwrap(api.POST("/v1/prices/import", { params: { query: { dryRun, effectiveFrom: instantOf(from) ?? undefined } }, body }));
    },
    onSuccess: (answer) => {
      if (answer.dryRun) return;
      note({ text: t.prices.imported(answer.changed) });
      void queryClient.invalidateQueries({ queryKey: ["prices"] });
      void queryClient.invalidateQueries({ queryKey: ["unpriced"] });
      onClose();
    },
  });
  const preview = send.data;
  const message = send.error instanceof Problem ? (send.error.fields.body ?? send.error.fields.effectiveFrom ?? send.error.message) : send.error ? messageOf(t, send.error) : undefined;
  return (
    <Dialog title={t.prices.importTitle} onClose={onClose} wide>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          if (file && from !== half) send.mutate(!preview);
        }}
      >
        <p class="faint">{t.prices.importLead}</p>
        <div class="grid">
          <div class="field">
            <label for={id}>{t.prices.file}</label>
            <input
              id={id}
              type="file"
              accept=".json,application/json"
              onChange={(e) => {
                setFile(e.currentTarget.files?.[0]);
                send.reset();
              }}
            />
          </div>
          <When
            label={t.prices.effectiveFrom}
            hint={t.prices.effectiveHint}
            value={from}
            onChange={(v) => {
              setFrom(v);
              send.reset();
            }}
          />
        </div>
        {message && (
          <p class="form-error" role="alert">
            {message}
          </p>
        )}
        {preview && <Preview of={preview} />}
        <footer class="dialog-foot">
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button type="submit" kind="primary" busy={send.isPending} disabled={!file || preview?.changed === 0}>
            {preview ? t.prices.apply(preview.changed) : t.prices.preview}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

function Preview({ of }: { of: Schemas["PriceImport"] }) {
  const t = useText();
  const format = useFormat();
  const pair = (p?: Schemas["Rates"]) => (p ? [p.inputPerMillion, p.outputPerMillion].map((usd) => (usd == null ? "–" : format.money(Number(usd)))).join(" / ") : "");
  return (
    <div aria-live="polite" data-test="preview">
      <p>
        <strong>{of.changed === 0 ? t.prices.noChange : t.prices.previewText(of.models, of.changed)}</strong>
      </p>
      {of.skipped.map((s) => (
        <p key={s.reason} class="faint">
          {t.prices.skipped(s.count, s.reason)}
        </p>
      ))}
      {of.changes.length > 0 && (
        <div class="scroll-part">
          <Table
            caption={t.prices.preview}
            rows={of.changes}
            rowKey={(c) => c.model}
            columns={[
              { id: "model", head: t.model, first: true, cell: (c) => c.model },
              { id: "before", head: `${t.prices.before} (${t.prices.input} / ${t.prices.output})`, number: true, cell: (c) => (c.before ? pair(c.before) : <Badge>{t.prices.isNew}</Badge>) },
              { id: "after", head: `${t.prices.after} (${t.prices.input} / ${t.prices.output})`, number: true, cell: (c) => pair(c.after) },
            ]}
          />
        </div>
      )}
    </div>
  );
}
