// Who is signed in.
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Schemas } from "./api/client";

export const SessionContext = createContext<Schemas["Session"] | null>(null);

export function useSession(): Schemas["Session"] {
  const who = useContext(SessionContext);
  if (!who) throw new Error("nobody is signed in");
  return who;
}

/** useMayChange reports whether who is signed in may change anything. */
export const useMayChange = () => useSession().role === "admin";
