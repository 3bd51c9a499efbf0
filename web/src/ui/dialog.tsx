// Dialogs, and the short messages at the foot of the page.
import { createContext } from "preact";
import { useCallback, useContext, useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { useText } from "../i18n";
import { Button, FormError, Icon, messageOf } from "./basics";

/** Dialog is a window over the page. Escape closes it, unless it shows what is shown once. */
export function Dialog({ title, onClose, children, wide, once }: { title: string; onClose: () => void; children: ComponentChildren; wide?: boolean; once?: boolean }) {
  const t = useText();
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    dialog?.querySelector<HTMLElement>("form input, form select, .dialog-foot button")?.focus();
    return () => dialog?.close();
  }, []);
  return (
    <dialog
      ref={ref}
      class={wide ? "wide-dialog" : undefined}
      aria-labelledby={id}
      onCancel={(e) => {
        e.preventDefault();
        if (!once) onClose();
      }}
    >
      <header class="dialog-head">
        <h2 id={id}>{title}</h2>
        {!once && (
          <Button kind="quiet" aria-label={t.close} onClick={onClose}>
            <Icon name="close" />
          </Button>
        )}
      </header>
      {children}
    </dialog>
  );
}

/** Confirm says what will happen, and asks. */
export function Confirm({ title, text, action, danger, busy, error, typed, onConfirm, onClose }: { title: string; text: ComponentChildren; action: string; danger?: boolean; busy?: boolean; error?: unknown; typed?: string; onConfirm: () => void; onClose: () => void }) {
  const t = useText();
  const [answer, setAnswer] = useState("");
  const id = useId();
  return (
    <Dialog title={title} onClose={onClose}>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          if (!typed || answer === typed) onConfirm();
        }}
      >
        <div class="dialog-text">{text}</div>
        {typed && (
          <div class="field">
            <label for={id}>{t.typeToConfirm(typed)}</label>
            <input id={id} value={answer} autocomplete="off" onInput={(e) => setAnswer(e.currentTarget.value)} />
          </div>
        )}
        <FormError error={error} />
        <footer class="dialog-foot">
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button type="submit" kind={danger ? "danger" : "primary"} busy={busy} disabled={typed !== undefined && answer !== typed}>
            {action}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

interface Note {
  id: number;
  text: string;
  bad?: boolean;
  undo?: () => Promise<unknown>;
}

const Notes = createContext<(note: Omit<Note, "id">) => void>(() => {});

/** useNotes is how a page says what it has done; undo takes it back. */
export const useNotes = () => useContext(Notes);

const shownFor = 15_000;
const mostNotes = 2;
let notes = 0;

export function NotesProvider({ children }: { children: ComponentChildren }) {
  const t = useText();
  const [list, setList] = useState<Note[]>([]);
  const remove = useCallback((id: number) => setList((all) => all.filter((n) => n.id !== id)), []);
  const add = useMemo(
    () => (note: Omit<Note, "id">) => {
      const id = ++notes;
      setList((all) => [...all.slice(1 - mostNotes), { ...note, id }]);
      setTimeout(() => remove(id), shownFor);
    },
    [remove],
  );
  return (
    <Notes.Provider value={add}>
      {children}
      <div class="notes" role="status">
        {list.map((n) => (
          <div key={n.id} class={n.bad ? "note bad" : "note"}>
            <span>{n.text}</span>
            {n.undo && (
              <Button
                kind="quiet"
                onClick={() => {
                  remove(n.id);
                  n.undo?.().catch((error: Error) => add({ text: messageOf(t, error), bad: true }));
                }}
              >
                {t.undo}
              </Button>
            )}
            <Button kind="quiet" aria-label={t.close} onClick={() => remove(n.id)}>
              <Icon name="close" />
            </Button>
          </div>
        ))}
      </div>
    </Notes.Provider>
  );
}
