import { useQuery } from "@tanstack/preact-query";
import { Component, type ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Link, Route, Switch, useLocation } from "wouter-preact";
import { useAddress } from "./address";
import { api, forget, onReached, Problem, unwrap } from "./api/client";
import { queryClient, session } from "./api/queries";
import { languages, useLocale, useText, type Language } from "./i18n";
import { SessionContext, useSession } from "./session";
import { Button, classes, Empty, Failed, Icon, Loading, Page, type IconName } from "./ui/basics";
import { applyTheme, theme, type Theme } from "./ui/theme";
import { Account, Accounts } from "./pages/accounts";
import { Audit } from "./pages/audit";
import { Health } from "./pages/health";
import { KeyPage } from "./pages/key";
import { CreateBatch, CreateKey, EditKey } from "./pages/keyform";
import { Keys } from "./pages/keys";
import { Me } from "./pages/me";
import { Overview } from "./pages/overview";
import { Prices } from "./pages/prices";
import { Relay } from "./pages/relay";
import { Reports } from "./pages/reports";
import { SignIn } from "./pages/signin";
import { Tokens } from "./pages/tokens";
import { WebhookPage, Webhooks } from "./pages/webhooks";

export function App() {
  const [path] = useLocation();
  return path === "/me" ? (
    <Plain>
      <Me />
    </Plain>
  ) : (
    <Console />
  );
}

function OneAccount() {
  const [said] = useAddress();
  return <Account key={said("id")} id={said("id")} />;
}

/** Fence keeps a fault of one page from taking the others with it. */
class Fence extends Component<{ children: ComponentChildren }, { broken: boolean }> {
  override state = { broken: false };

  override componentDidCatch(error: unknown) {
    console.error(error);
    this.setState({ broken: true });
  }

  override render() {
    return this.state.broken ? <Crashed /> : this.props.children;
  }
}

function Crashed() {
  const t = useText();
  return (
    <Page title={t.crashed} lead={t.crashedText}>
      <Button onClick={() => location.reload()}>{t.retry}</Button>
    </Page>
  );
}

function Console() {
  const t = useText();
  const [path] = useLocation();
  const asked = useQuery(session());
  // Another tab may have signed in somebody else, for whom nothing of this holds.
  const who = useRef(asked.data?.id);
  useEffect(() => {
    if (who.current && asked.data && who.current !== asked.data.id) {
      forget();
      void queryClient.resetQueries({ predicate: (q) => q.queryKey[0] !== "session" });
    }
    who.current = asked.data?.id ?? who.current;
  }, [asked.data?.id]);
  const signedOut = asked.error instanceof Problem && asked.error.status === 401;
  if (signedOut) {
    return (
      <Plain>
        <SignIn ended={asked.data !== undefined} />
      </Plain>
    );
  }
  if (!asked.data) {
    return <Plain>{asked.error ? <Failed error={asked.error} retry={() => void asked.refetch()} /> : <Loading />}</Plain>;
  }
  if (asked.data.role === "relay") {
    return (
      <Plain>
        <Page title={t.signIn.relayTitle} lead={t.signIn.relayText}>
          <Button kind="primary" onClick={signOut}>
            {t.signOut}
          </Button>
        </Page>
      </Plain>
    );
  }
  return (
    <SessionContext.Provider value={asked.data}>
      <Shell>
        <Fence key={path}>
          <Switch>
            <Route path="/" component={Overview} />
            <Route path="/keys" component={Keys} />
            <Route path="/keys/new" component={CreateKey} />
            <Route path="/keys/batch" component={CreateBatch} />
            <Route path="/keys/:id/edit">{({ id }) => <EditKey key={id} id={id} />}</Route>
            <Route path="/keys/:id">{({ id }) => <KeyPage key={id} id={id} />}</Route>
            <Route path="/accounts" component={Accounts} />
            <Route path="/accounts/one" component={OneAccount} />
            <Route path="/prices" component={Prices} />
            <Route path="/reports" component={Reports} />
            <Route path="/tokens" component={Tokens} />
            <Route path="/webhooks" component={Webhooks} />
            <Route path="/webhooks/:id">{({ id }) => <WebhookPage key={id} id={id} />}</Route>
            <Route path="/relay" component={Relay} />
            <Route path="/audit" component={Audit} />
            <Route path="/health" component={Health} />
            <Route>
              <Page title={t.error.notFound}>
                <Empty title={t.error.notFoundText} action={<Link class="button" href="/">{t.error.home}</Link>} />
              </Page>
            </Route>
          </Switch>
        </Fence>
      </Shell>
    </SessionContext.Provider>
  );
}

export async function signOut() {
  await unwrap(api.DELETE("/v1/session", { params: { header: { "X-Keyledger-Console": "1" } } })).catch(() => undefined);
  forget();
  queryClient.clear();
  history.replaceState(null, "", "/");
  location.reload();
}

const pages: { path: string; name: keyof ReturnType<typeof useText>["nav"]; icon: IconName }[] = [
  { path: "/", name: "overview", icon: "overview" },
  { path: "/keys", name: "keys", icon: "keys" },
  { path: "/accounts", name: "accounts", icon: "accounts" },
  { path: "/reports", name: "reports", icon: "reports" },
  { path: "/prices", name: "prices", icon: "prices" },
  { path: "/relay", name: "relay", icon: "relay" },
  { path: "/webhooks", name: "webhooks", icon: "webhooks" },
  { path: "/tokens", name: "tokens", icon: "tokens" },
  { path: "/audit", name: "audit", icon: "audit" },
  { path: "/health", name: "settings", icon: "settings" },
];

function Shell({ children }: { children: ComponentChildren }) {
  const t = useText();
  const [path] = useLocation();
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [path]);
  return (
    <div class="shell">
      <a class="skip" href="#main">
        {t.skip}
      </a>
      <header class="top">
        <Brand />
        <Button kind="quiet" class="menu-button" aria-expanded={open} aria-controls="nav" aria-label={t.menu} onClick={() => setOpen(!open)}>
          <Icon name={open ? "close" : "menu"} />
        </Button>
      </header>
      <div class={classes("side", open && "open")} id="nav">
        <nav aria-label={t.navigation}>
          <Brand />
          <ul>
            {pages.map((p) => {
              const here = p.path === "/" ? path === "/" : path === p.path || path.startsWith(`${p.path}/`);
              return (
                <li key={p.path}>
                  <Link href={p.path} aria-current={here ? "page" : undefined} class={here ? "here" : ""}>
                    <Icon name={p.icon} />
                    {t.nav[p.name]}
                  </Link>
                </li>
              );
            })}
          </ul>
        </nav>
        <Foot />
      </div>
      <div class="main">
        <Connection />
        <main id="main" tabIndex={-1}>
          {children}
        </main>
      </div>
    </div>
  );
}

function Brand() {
  return (
    <Link href="/" class="brand">
      <img src="/icon.svg" alt="" width="24" height="24" />
      keyledger
    </Link>
  );
}

/** Plain is the frame of pages without navigation. */
function Plain({ children }: { children: ComponentChildren }) {
  return (
    <div class="bare">
      <header>
        <Brand />
        <Choices />
      </header>
      <Connection />
      <main id="main">{children}</main>
    </div>
  );
}

function Foot() {
  const t = useText();
  const who = useSession();
  return (
    <footer class="foot">
      <p class="who">
        <strong>{who.name}</strong>
        <span class="faint">
          {t.roles[who.role]} · {who.version}
        </span>
      </p>
      <Choices />
      <Button kind="quiet" onClick={signOut}>
        {t.signOut}
      </Button>
    </footer>
  );
}

function Choices() {
  const { t, language, setLanguage } = useLocale();
  const [chosen, setChosen] = useState<Theme>(theme);
  return (
    <div class="choices">
      <label>
        <span class="sr">{t.language}</span>
        <select value={language} onChange={(e) => setLanguage(e.currentTarget.value as Language)}>
          {languages.map((l) => (
            <option key={l.id} value={l.id}>
              {l.name}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span class="sr">{t.theme}</span>
        <select
          value={chosen}
          onChange={(e) => {
            const now = e.currentTarget.value as Theme;
            setChosen(now);
            applyTheme(now);
          }}
        >
          {(["system", "light", "dark"] as const).map((id) => (
            <option key={id} value={id}>
              {t.themes[id]}
            </option>
          ))}
        </select>
      </label>
    </div>
  );
}

/** Connection says when the service does not answer. */
function Connection() {
  const t = useText();
  const [reached, setReached] = useState(true);
  useEffect(() => onReached(setReached), []);
  return (
    <div role="status" class="connection">
      {!reached && (
        <p>
          <Icon name="warn" /> {t.offline}
        </p>
      )}
    </div>
  );
}
