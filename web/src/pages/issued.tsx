// What is shown once: secrets that were just made.
import { useEffect } from "preact/hooks";
import { useText } from "../i18n";
import { Copy, Icon } from "../ui/basics";

export function Secret({ secret, label }: { secret: string; label?: string }) {
  const t = useText();
  useLeaveWarning();
  return (
    <div class="secret">
      <p class="banner warn">
        <Icon name="warn" /> {t.issued.warning}
      </p>
      <p class="secret-label">{label ?? t.issued.secret}</p>
      <div class="secret-text">
        <code data-test="secret">{secret}</code>
        <Copy text={secret} />
      </div>
    </div>
  );
}

/** useLeaveWarning asks before the page with a secret on it is closed or loaded again. */
export function useLeaveWarning() {
  useEffect(() => {
    const warn = (e: BeforeUnloadEvent) => e.preventDefault();
    addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, []);
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
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
