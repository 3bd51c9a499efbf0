// What the browser remembers of how a person wants the console: never a secret. Where storage is
// blocked, nothing is remembered.

export function remembered(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function remember(name: string, value: string) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // as if it were not asked for
  }
}
