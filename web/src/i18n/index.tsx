// Language and the forms of numbers, money and times that go with it.
import { createContext } from "preact";
import { useContext, useEffect, useMemo, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { remember, remembered } from "../memory";
import { en, type Text } from "./en";
import { zh } from "./zh";

const texts = { en, "zh-CN": zh } as const satisfies Record<string, Text>;
export type Language = keyof typeof texts;
export const languages: { id: Language; name: string }[] = [
  { id: "en", name: "English" },
  { id: "zh-CN", name: "简体中文" },
];

const stored = "keyledger.language";

function preferred(): Language {
  const kept = remembered(stored);
  if (kept === "en" || kept === "zh-CN") return kept;
  return navigator.languages.some((l) => l.toLowerCase().startsWith("zh")) ? "zh-CN" : "en";
}

interface Locale {
  language: Language;
  setLanguage: (l: Language) => void;
  t: Text;
  format: Format;
}

const Context = createContext<Locale | null>(null);

export function LocaleProvider({ children }: { children: ComponentChildren }) {
  const [language, setLanguage] = useState<Language>(preferred);
  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  const value = useMemo<Locale>(
    () => ({
      language,
      setLanguage: (l) => {
        remember(stored, l);
        setLanguage(l);
      },
      t: texts[language],
      format: formats(language),
    }),
    [language],
  );
  return <Context.Provider value={value}>{children}</Context.Provider>;
}

export function useLocale(): Locale {
  const value = useContext(Context);
  if (!value) throw new Error("no LocaleProvider");
  return value;
}

/** useText is the texts of the language in use. */
export const useText = () => useLocale().t;
export const useFormat = () => useLocale().format;

export type Format = ReturnType<typeof formats>;

function formats(language: Language) {
  // Shown from the language, but for English, where the browser's own kind of it decides.
  const locale = language === "en" ? (navigator.languages.find((l) => l.startsWith("en")) ?? "en-US") : language;
  const whole = new Intl.NumberFormat(locale);
  const compact = new Intl.NumberFormat(locale, { notation: "compact", maximumFractionDigits: 1 });
  const percent = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 });
  const moneyOf = (digits: number) => new Intl.NumberFormat(locale, { style: "currency", currency: "USD", minimumFractionDigits: Math.min(digits, 2), maximumFractionDigits: digits, currencyDisplay: "narrowSymbol" });
  const cents = moneyOf(2);
  const small = moneyOf(4);
  const tiny = moneyOf(6);
  const exact = moneyOf(12);
  const instant = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
  const second = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
  const dayOf = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeZone: "UTC" });
  const shortDayOf = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", timeZone: "UTC" });
  const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "long" });
  const steps: [Intl.RelativeTimeFormatUnit, number][] = [["year", 31_557_600], ["month", 2_629_800], ["day", 86_400], ["hour", 3_600], ["minute", 60]];
  return {
    integer: (n: number) => whole.format(n),
    compact: (n: number) => (Math.abs(n) < 10_000 ? whole.format(n) : compact.format(n)),
    percent: (share: number) => percent.format(share),
    /** Dollars: cents, or more digits where cents would tell nothing. */
    money: (usd: number) => {
      const size = Math.abs(usd);
      return (size >= 1 || size === 0 ? cents : size >= 0.01 ? small : tiny).format(usd);
    },
    exactMoney: (usd: number) => exact.format(usd),
    time: (iso: string) => instant.format(new Date(iso)),
    timeToSecond: (iso: string) => second.format(new Date(iso)),
    day: (day: string) => dayOf.format(new Date(`${day}T00:00:00Z`)),
    shortDay: (day: string) => shortDayOf.format(new Date(`${day}T00:00:00Z`)),
    /** An hour in a time zone, which is the service's: hours belong to its days. */
    hour: (iso: string, timeZone: string) => new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit", timeZone }).format(new Date(iso)),
    /** "3 days ago", "in 2 hours". */
    relative: (iso: string, now = Date.now()) => {
      const seconds = (new Date(iso).getTime() - now) / 1000;
      const [unit, size] = steps.find(([, s]) => Math.abs(seconds) >= s) ?? ["second", 1];
      return relative.format(Math.round(seconds / size), unit);
    },
    /** "1:04:09", "4:09". */
    countdown: (seconds: number) => {
      const s = Math.max(0, Math.round(seconds));
      const two = (n: number) => String(n).padStart(2, "0");
      const [h, m] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
      return h > 0 ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
    },
  };
}
