// What is done to keys from more than one page.
import { api, unwrap } from "./client";
import { queryClient } from "./queries";

export const setActive = (ids: string[], isActive: boolean) => unwrap(api.PATCH("/v1/keys/batch", { body: { ids, isActive } }));

export async function restore(ids: string[]) {
  for (const id of ids) await unwrap(api.POST("/v1/keys/{id}/restore", { params: { path: { id } } }));
}

/** changed makes every page read keys anew. */
export function changed() {
  void queryClient.invalidateQueries({ predicate: (q) => ["key", "keys", "overview", "tags"].includes(String(q.queryKey[0])) });
}
