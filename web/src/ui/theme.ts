// Light or dark: as the system has it, unless a person chose.
const stored = "keyledger.theme";
export type Theme = "system" | "light" | "dark";

export function theme(): Theme {
  const kept = localStorage.getItem(stored);
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function applyTheme(chosen: Theme = theme()) {
  localStorage.setItem(stored, chosen);
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}
