import { useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { api, Lost, Problem, unwrap } from "../api/client";
import { queryClient, session } from "../api/queries";
import { useText } from "../i18n";
import { Button, Page } from "../ui/basics";
import { Input } from "../ui/form";

export function SignIn({ ended }: { ended: boolean }) {
  const t = useText();
  const [token, setToken] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const signIn = async (e: Event) => {
    e.preventDefault();
    if (token.trim() === "") return setError(t.rule.required);
    setBusy(true);
    try {
      const who = await unwrap(api.POST("/v1/session", { body: { token: token.trim() } }));
      queryClient.removeQueries({ predicate: (q) => q.queryKey[0] !== "session" });
      queryClient.setQueryData(session().queryKey, who);
    } catch (problem) {
      setError(problem instanceof Lost ? t.error.lostText : problem instanceof Problem && problem.status === 401 ? t.signIn.wrong : (problem as Error).message);
      setBusy(false);
    }
  };
  return (
    <div class="sign-in">
      <Page title={t.signIn.title} lead={ended ? t.signIn.ended : t.signIn.lead}>
        <form class="card" onSubmit={signIn}>
          {/* A password field, so that nobody reads it over a shoulder; managers may keep it. */}
          <Input label={t.signIn.token} type="password" autocomplete="current-password" name="token" value={token} error={error} onChange={(v) => (setToken(v), setError(""))} autofocus />
          <Button type="submit" kind="primary" busy={busy}>
            {t.signIn.action}
          </Button>
        </form>
        <p class="faint">{t.signIn.help}</p>
        <pre tabIndex={0}>
          <code>keyledger tokens create --name me --role admin</code>
        </pre>
        <p>
          {t.signIn.holder} <Link href="/me">{t.signIn.holderLink}</Link>
        </p>
      </Page>
    </div>
  );
}
