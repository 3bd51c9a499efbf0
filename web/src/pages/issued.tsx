// What is shown once: secrets that were just made.
import { useEffect, useState } from "preact/hooks";
import { useText } from "../i18n";
import { Copy, Icon } from "../ui/basics";

export function Secret({ secret, label }: { secret: string; label?: string }) {
  const t = useText();
  const [copied, setCopied] = useState(false);
  useLeaveWarning(!copied);
  return (
    <div class="secret">
      <p class="banner warn">
        <Icon name="warn" /> {t.issued.warning}
      </p>
      <p class="secret-label">{label ?? t.issued.secret}</p>
      <div class="secret-text">
        <code data-test="secret">{secret}</code>
        <Copy text={secret} onCopied={() => setCopied(true)} />
      </div>
    </div>
  );
}

const tried = "claude-sonnet-4-20250514";

/** TryIt shows how a relay asks and tells, ready to be pasted: the numbers on the key's page then move. */
export function TryIt({ id, secret }: { id: string; secret: string }) {
  const t = useText();
  const curl = (path: string, body: object) =>
    `curl -s ${location.origin}${path} -H "Authorization: Bearer $KEYLEDGER_TOKEN" \\\n  -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`;
  const requestId = `try-${id.slice(-6)}`;
  const commands = [
    curl("/v1/admissions", { apiKey: secret, requestId, service: "claude", model: tried, estimate: { costUsd: 0.05 } }),
    curl("/v1/usage", { keyId: id, requestId, model: tried, usage: { input_tokens: 3000, output_tokens: 400 } }),
  ].join("\n");
  return (
    <details class="try">
      <summary>{t.issued.tryIt}</summary>
      <p class="hint">{t.issued.tryText}</p>
      <pre tabIndex={0}>
        <code data-test="try">{commands}</code>
      </pre>
      <Copy text={commands} />
    </details>
  );
}

/** useLeaveWarning asks before a page whose secret nobody has yet is closed, loaded again, or left by a link; but for
links that say that it was copied, which have data-copied. */
export function useLeaveWarning(unsaved: boolean) {
  const t = useText();
  useEffect(() => {
    if (!unsaved) return;
    const warn = (e: BeforeUnloadEvent) => e.preventDefault();
    const ask = (e: MouseEvent) => {
      const link = (e.target as Element).closest("a[href]");
      if (!link || link.hasAttribute("data-copied") || link.hasAttribute("download") || confirm(t.issued.leave)) return;
      e.preventDefault();
      e.stopPropagation();
    };
    addEventListener("beforeunload", warn);
    addEventListener("click", ask, true);
    return () => {
      removeEventListener("beforeunload", warn);
      removeEventListener("click", ask, true);
    };
  }, [unsaved, t]);
}

/** csv makes a file of rows, in which a spreadsheet finds nothing to run. */
export function csv(rows: string[][]): string {
  const cell = (text: string) => {
    const harmless = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
  };
  return rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
}

export function download(name: string, text: string) {
  const link = document.createElement("a");
  // The mark at the start tells spreadsheets that names are UTF-8.
  link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click(); // which is no link to another page
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
