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
