// The page of a key's holder: GET /v1/self by the key itself, which is kept in this page's
// memory and nowhere else.
import { useQuery } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { api, Lost, Problem, unwrap, type Schemas } from "../api/client";
import { useFormat, useText } from "../i18n";
import { Button, Card, Failed, Loading, Money, Page, Status, Time } from "../ui/basics";
import { Bars, dayBefore, days } from "../ui/chart";
import { Input } from "../ui/form";
import { LimitMeter, limitsOf } from "../ui/meter";
import { Models } from "./key";

const every = 5_000;

export function Me() {
  const t = useText();
  const [typed, setTyped] = useState("");
  const [secret, setSecret] = useState("");
  // The key is no part of the query's name, which tools for developers show.
  const self = useQuery({
    queryKey: ["self"],
    queryFn: ({ signal }) => unwrap(api.GET("/v1/self", { signal, credentials: "omit", headers: { Authorization: `Bearer ${secret}` } })),
    enabled: secret !== "",
    refetchInterval: (q) => (q.state.error instanceof Problem ? false : every),
    gcTime: 0,
    staleTime: 0,
  });
  const wrong = self.error instanceof Problem && self.error.status === 401;
  if (secret !== "" && self.data && !wrong) {
    return (
      <Self
        of={self.data}
        forget={() => {
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
            if (typed.trim() === secret) void self.refetch();
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
  const format = useFormat();
  const k = of.key;
  const limits = limitsOf(k);
  const today = new Intl.DateTimeFormat("en-CA", { timeZone: of.timezone }).format(new Date(of.usage.asOf));
  const periods = days(dayBefore(today, 29), today);
  const costs = new Map(of.days.map((d) => [d.day, d.costUsd]));
  const models = !k.enableModelRestriction ? t.me.all : k.allowedModels.length > 0 ? k.allowedModels.join(", ") : t.me.except(k.restrictedModels.join(", "));
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
        <dl class="figures" data-test="usage">
          {([[t.today, of.usage.daily], [t.month, of.usage.monthly], [t.total, of.usage.total]] as const).map(([name, block]) => (
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
        {of.days.length > 0 && <Bars title={t.me.byDay} periods={periods} labels={periods.map(format.shortDay)} series={[{ name: t.cost, values: periods.map((p) => costs.get(p) ?? 0) }]} money height={180} />}
      </Card>
      <Card title={t.me.byModel}>{of.usage.models.length > 0 ? <Models models={of.usage.models} /> : <p class="faint">{t.me.noUsage}</p>}</Card>
      <Card title={t.keyPage.details}>
        <dl class="settings">
          {(
            [
              [t.me.services, k.permissions.includes("all") ? t.me.all : k.permissions.join(", ")],
              [t.me.models, models],
              [t.me.clients, k.enableClientRestriction && k.allowedClients.length > 0 ? k.allowedClients.join(", ") : t.me.all],
              [t.expires, <Time iso={k.expiresAt} fallback={t.never} exact />],
              [t.lastUsed, <Time iso={k.lastUsedAt} fallback={t.never} />],
            ] as [string, preact.ComponentChildren][]
          ).map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </Card>
    </Page>
  );
}
