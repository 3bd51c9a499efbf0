// What a person has chosen, kept in the page's address.
import { useLocation, useSearch } from "wouter-preact";

/** useAddress is what the address says of a name, and how to change it; an empty text takes it out. */
export function useAddress(): [(name: string) => string, (changes: Record<string, string>) => void] {
  useSearch(); // tells of changes; the text itself is read here, since wouter decodes it once too often
  const [, go] = useLocation();
  const read = () => new URLSearchParams(location.search);
  const set = (changes: Record<string, string>) => {
    const now = read();
    for (const [name, value] of Object.entries(changes)) {
      if (value) now.set(name, value);
      else now.delete(name);
    }
    const query = now.toString();
    go(query ? `${location.pathname}?${query}` : location.pathname, { replace: true });
  };
  const said = read();
  return [(name) => said.get(name) ?? "", set];
}
