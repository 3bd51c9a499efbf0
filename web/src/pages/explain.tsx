import { useMutation } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { api, unwrap, type Key } from "../api/client";
import { useFormat, useText } from "../i18n";
import { useMayChange, useSession } from "../session";
import { Badge, Button, Card, FormError, reasonName } from "../ui/basics";
import { check, Input, Select } from "../ui/form";

/** Explain asks whether a request would go on, and shows every check with its numbers. */
export function Explain({ k }: { k: Key }) {
  const t = useText();
  const format = useFormat();
  const may = useMayChange();
  const { services } = useSession();
  const [service, setService] = useState("");
  const [model, setModel] = useState("");
  const [userAgent, setUserAgent] = useState("");
  const [cost, setCost] = useState("");
  const wrong = check(t, "estimatePerRequest", cost);
  const ask = useMutation({
    mutationFn: () =>
      unwrap(
        api.POST("/v1/admissions", {
          body: {
            keyId: k.id,
            dryRun: true,
            explain: true,
            service: service || undefined,
            model: model.trim() || undefined,
            userAgent: userAgent.trim() || undefined,
            estimate: cost.trim() ? { costUsd: cost.trim() } : undefined,
          },
        }),
      ),
  });
  if (!may) return null; // an admin alone may name a key by its id
  const answer = ask.data;
  return (
    <Card title={t.keyPage.explain} id="explain">
      <p class="faint">{t.keyPage.explainText}</p>
      <form
        class="row-form"
        onSubmit={(e) => {
          e.preventDefault();
          if (!wrong) ask.mutate();
        }}
      >
        <Select label={t.keyPage.service} value={service} onChange={setService} options={[{ value: "", text: t.keyPage.anyText }, ...services.map((s) => ({ value: s, text: s }))]} />
        <Input label={t.model} value={model} onChange={setModel} maxLength={200} placeholder="claude-sonnet-4-5" />
        <Input label={t.keyPage.userAgent} value={userAgent} onChange={setUserAgent} maxLength={1000} placeholder="claude-cli/2.0 (external)" />
        <Input label={t.keyPage.estimateUsd} value={cost} onChange={setCost} error={wrong} unit="$" inputMode="decimal" placeholder="0.05" />
        <Button type="submit" kind="primary" busy={ask.isPending}>
          {t.keyPage.ask}
        </Button>
      </form>
      <FormError error={ask.error} />
      <div aria-live="polite">
        {answer && (
          <div class={answer.allowed ? "verdict good" : "verdict bad"} data-test="verdict">
            <p>
              <strong>{reasonName(t, answer.code)}</strong> <code>{answer.code}</code>
            </p>
            {!answer.allowed && <p>{answer.message}.</p>}
            {answer.retryAfterSeconds != null && <p>{t.keyPage.retryAfter(format.countdown(answer.retryAfterSeconds))}</p>}
            <ul class="checks">
              {(answer.explanation ?? []).map((c) => (
                <li key={c.check}>
                  <Badge tone={c.passed ? "good" : "bad"}>{c.passed ? t.keyPage.passed : t.keyPage.refused}</Badge>
                  <span>
                    <strong>{c.check}</strong> {c.detail}
                  </span>
                </li>
              ))}
            </ul>
          </div>
        )}
      </div>
    </Card>
  );
}
