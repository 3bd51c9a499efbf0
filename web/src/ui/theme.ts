// Light or dark: as the system has it, unless a person chose.
import { remember, remembered } from "../memory";

const stored = "keyledger.theme";
export type Theme = "system" | "light" | "dark";

export function theme(): Theme {
  const kept = remembered(stored);
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function applyTheme(chosen: Theme = theme()) {
  remember(stored, chosen);
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}
