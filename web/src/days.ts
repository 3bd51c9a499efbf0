// Days as the service writes them: 2026-11-23, in its own time zone.

/** todayIn is the day that it is in a time zone. */
export function todayIn(timezone: string, at: Date = new Date()): string {
  const parts = Object.fromEntries(new Intl.DateTimeFormat("en", { timeZone: timezone, year: "numeric", month: "2-digit", day: "2-digit" }).formatToParts(at).map((p) => [p.type, p.value]));
  return `${parts.year}-${parts.month}-${parts.day}`;
}

/** dayBefore is a day some days before another. */
export function dayBefore(day: string, n: number): string {
  return new Date(new Date(`${day}T00:00:00Z`).getTime() - n * 86_400_000).toISOString().slice(0, 10);
}

/** daysOf are all days from one to another, both included. */
export function daysOf(from: string, to: string): string[] {
  const all: string[] = [];
  for (let day = from; day <= to && all.length < 1100; day = dayBefore(day, -1)) all.push(day);
  return all;
}
