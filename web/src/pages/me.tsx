// The page of a key's holder: GET /v1/self by the key itself, which is kept in this page's
// memory and nowhere else.
import { useQuery } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { api, forget as forgetAnswers, Lost, Problem, unwrap, type Schemas } from "../api/client";
import { queryClient } from "../api/queries";
import { todayIn } from "../days";
import { useText } from "../i18n";
import { Button, Card, Facts, Failed, Loading, Page, Status, Time } from "../ui/basics";
import { Input } from "../ui/form";
import { LimitMeter, limitsOf } from "../ui/meter";
import { CostByDay, Figures, Models, restrictions } from "../ui/usage";

const every = 5_000;
const refused = (error: unknown) => error instanceof Problem && error.status === 401;

export function Me() {
  const t = useText();
  const [typed, setTyped] = useState("");
  const [secret, setSecret] = useState("");
  const [asked, setAsked] = useState(0); // each key has a query of its own, which is not named by it
  const self = useQuery({
    queryKey: ["self", asked],
    queryFn: ({ signal }) => unwrap(api.GET("/v1/self", { signal, credentials: "omit", headers: { Authorization: `Bearer ${secret}` } })),
    enabled: secret !== "",
    refetchInterval: (q) => (refused(q.state.error) ? false : every),
    gcTime: 0,
    staleTime: 0,
  });
  const wrong = refused(self.error);
  if (secret !== "" && self.data && !wrong) {
    return (
      <Self
        of={self.data}
        forget={() => {
          queryClient.removeQueries({ queryKey: ["self"] });
          forgetAnswers();
          setSecret("");
          setTyped("");
        }}
      />
    );
  }
  return (
    <div class="sign-in">
      <Page title={t.me.title} lead={t.me.lead}>
        <form
          class="card"
          onSubmit={(e) => {
            e.preventDefault();
            setAsked(asked + 1);
            setSecret(typed.trim());
          }}
        >
          <Input label={t.me.label} type="password" value={typed} onChange={setTyped} error={wrong ? t.me.wrong : undefined} placeholder="cr_…" autofocus />
          <Button type="submit" kind="primary" busy={self.isFetching} disabled={typed.trim() === ""}>
            {t.me.show}
          </Button>
        </form>
        {self.isFetching && !self.data && <Loading />}
        {self.error && !wrong && (self.error instanceof Lost || self.error instanceof Problem) && <Failed error={self.error} retry={() => void self.refetch()} />}
        <p>
          <Link href="/">{t.me.admin}</Link>
        </p>
      </Page>
    </div>
  );
}

function Self({ of, forget }: { of: Schemas["Self"]; forget: () => void }) {
  const t = useText();
  const k = of.key;
  const limits = limitsOf(k);
  return (
    <Page
      title={k.name}
      lead={
        <>
          <Status status={k.status} /> <code>{k.keyHint}</code>
        </>
      }
      actions={<Button onClick={forget}>{t.me.forget}</Button>}
    >
      <Card title={t.keyPage.limits}>
        {limits.length === 0 ? (
          <p class="faint">{t.me.noLimits}</p>
        ) : (
          <div class="limits" data-test="limits">
            {limits.map((l) => (
              <LimitMeter key={l.name} limit={l} />
            ))}
          </div>
        )}
      </Card>
      <Card title={t.keyPage.usage}>
        <Figures of={of.usage} />
        {of.days.length > 0 && <CostByDay title={t.me.byDay} today={todayIn(of.timezone, new Date(of.usage.asOf))} rows={of.days} />}
      </Card>
      <Card title={t.me.byModel}>{of.usage.models.length > 0 ? <Models models={of.usage.models} /> : <p class="faint">{t.me.noUsage}</p>}</Card>
      <Card title={t.keyPage.details}>
        <Facts
          of={[
            ...restrictions(t, k),
              [t.expires, <Time iso={k.expiresAt} fallback={t.never} exact />],
              [t.lastUsed, <Time iso={k.lastUsedAt} fallback={t.neverUsed} />],
          ]}
        />
      </Card>
    </Page>
  );
}
