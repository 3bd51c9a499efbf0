// Form fields with their labels, hints and errors, and the rules that openapi.yaml has for them.
import { useId } from "preact/hooks";
import type { ComponentChildren, JSX } from "preact";
import rules from "../api/rules.json";
import { useText } from "../i18n";
import type { Text } from "../i18n/en";

interface Rule {
  type?: string;
  minLength?: number;
  maxLength?: number;
  minimum?: number;
  maximum?: number;
  maxItems?: number;
  items?: Rule;
}

/** check says what is wrong with a text in a field, by the server's own rules; empty: nothing. */
export function check(t: Text, field: string, text: string, required = false): string {
  const value = text.trim();
  if (value === "") return required ? t.rule.required : "";
  return wrong(t, (rules as Record<string, Rule>)[field] ?? {}, value);
}

function wrong(t: Text, rule: Rule, value: string): string {
  switch (rule.type) {
    case "money":
      return /^\d+(\.\d{1,12})?$/.test(value) ? "" : t.rule.money;
    case "integer": {
      const n = Number(value);
      if (!/^\d+$/.test(value) || !Number.isSafeInteger(n)) return t.rule.integer;
      const [low, high] = [rule.minimum ?? 0, rule.maximum ?? Number.MAX_SAFE_INTEGER];
      return n < low || n > high ? t.rule.range(low, high) : "";
    }
    case "array": {
      const entries = listOf(value);
      if (entries.length > (rule.maxItems ?? Infinity)) return t.rule.entries(rule.maxItems ?? 0);
      return entries.map((e) => wrong(t, rule.items ?? {}, e)).find((w) => w !== "") ?? "";
    }
    default: {
      const n = [...value].length;
      const [low, high] = [rule.minLength ?? 0, rule.maxLength ?? Infinity];
      return n < low || n > high ? t.rule.length(low, high) : "";
    }
  }
}

/** listOf parts a text of entries by line. */
export function listOf(text: string): string[] {
  return [...new Set(text.split("\n").map((e) => e.trim()).filter((e) => e !== ""))];
}

interface Wrapped {
  label: ComponentChildren;
  hint?: ComponentChildren;
  error?: string;
  unit?: string;
}

function Frame({ id, label, hint, error, unit, children }: Wrapped & { id: string; children: ComponentChildren }) {
  return (
    <div class={error ? "field wrong" : "field"}>
      <label for={id}>{label}</label>
      {unit ? (
        <span class="with-unit">
          {children}
          <span class="unit" aria-hidden="true">
            {unit}
          </span>
        </span>
      ) : (
        children
      )}
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
      <p class="field-error" id={`${id}-error`} aria-live="polite">
        {error}
      </p>
    </div>
  );
}

const described = (id: string, hint: unknown) => (hint ? `${id}-hint ${id}-error` : `${id}-error`);

type InputProps = Wrapped & Omit<JSX.InputHTMLAttributes<HTMLInputElement>, "label" | "onChange"> & { value: string; onChange: (value: string) => void };

export function Input({ label, hint, error, unit, onChange, ...rest }: InputProps) {
  const id = useId();
  return (
    <Frame id={id} label={label} hint={hint} error={error} unit={unit}>
      <input id={id} autocomplete="off" spellcheck={false} {...rest} aria-describedby={described(id, hint)} aria-invalid={error ? true : undefined} onInput={(e) => onChange(e.currentTarget.value)} />
    </Frame>
  );
}

/** half stands for a date or time of which a part is missing: no instant, and not empty either. */
export const half = "half";

/** When is a field for a day, or for an instant in the browser's own time zone. Its value is half while a part is missing. */
export function When({ label, hint, error, value, onChange, kind = "datetime-local", required }: Wrapped & { value: string; onChange: (value: string) => void; kind?: "date" | "datetime-local"; required?: boolean }) {
  const t = useText();
  const id = useId();
  const said = value === half ? t.rule.half : error;
  const read = (e: { currentTarget: HTMLInputElement }) => onChange(e.currentTarget.validity.badInput ? half : e.currentTarget.value);
  return (
    <Frame id={id} label={label} hint={hint} error={said}>
      <input id={id} type={kind} required={required} value={value === half ? undefined : value} aria-describedby={described(id, hint)} aria-invalid={said ? true : undefined} onInput={read} onBlur={read} />
    </Frame>
  );
}

export function Area({ label, hint, error, value, onChange, rows = 2, ...rest }: Wrapped & { value: string; onChange: (value: string) => void; rows?: number; placeholder?: string }) {
  const id = useId();
  return (
    <Frame id={id} label={label} hint={hint} error={error}>
      <textarea id={id} rows={rows} spellcheck={false} value={value} {...rest} aria-describedby={described(id, hint)} aria-invalid={error ? true : undefined} onInput={(e) => onChange(e.currentTarget.value)} />
    </Frame>
  );
}

export function Select({ label, hint, error, value, onChange, options, ...rest }: Wrapped & { value: string; onChange: (value: string) => void; options: { value: string; text: string }[]; "data-test"?: string }) {
  const id = useId();
  return (
    <Frame id={id} label={label} hint={hint} error={error}>
      <select id={id} value={value} {...rest} aria-describedby={described(id, hint)} onChange={(e) => onChange(e.currentTarget.value)}>
        {options.map((o) => (
          <option key={o.value} value={o.value}>
            {o.text}
          </option>
        ))}
      </select>
    </Frame>
  );
}

export function Check({ label, hint, checked, onChange, disabled }: { label: ComponentChildren; hint?: string; checked: boolean; onChange: (on: boolean) => void; disabled?: boolean }) {
  const id = useId();
  return (
    <div class="check">
      <input id={id} type="checkbox" checked={checked} disabled={disabled} onChange={(e) => onChange(e.currentTarget.checked)} aria-describedby={hint ? `${id}-hint` : undefined} />
      <label for={id}>{label}</label>
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}

export function Group({ legend, children, class: extra }: { legend: string; children: ComponentChildren; class?: string }) {
  return (
    <fieldset class={extra}>
      <legend>{legend}</legend>
      {children}
    </fieldset>
  );
}

/** localInstant is an instant as an input of type datetime-local has it, and back. */
export function localInstant(iso: string | null | undefined): string {
  if (!iso) return "";
  const at = new Date(iso);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

export function instantOf(local: string): string | null {
  return local === "" || local === half ? null : new Date(local).toISOString();
}
