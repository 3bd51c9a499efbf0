// What a relay in TypeScript writes against types that are generated from openapi.yaml.
import type { components, paths } from "./openapi";

type Admission = paths["/v1/admissions"]["post"];
type Answer = Admission["responses"]["200"]["content"]["application/json"];
type Usage = paths["/v1/usage"]["post"];

const ask: Admission["requestBody"]["content"]["application/json"] = {
  apiKey: "cr_0123", requestId: "req-1", service: "claude", model: "claude-sonnet-4-20250514", estimate: { tokens: 4096 },
};
const key: components["schemas"]["KeyCreate"] = { name: "alice", dailyCostLimit: "5", permissions: "claude", tags: ["team-a"] };
const report: Usage["requestBody"]["content"]["application/json"] = {
  admissionId: "0197c1b2-0000-7000-8000-000000000001", usage: { input_tokens: 10, output_tokens: 20 },
};

export function mayGoOn(answer: Answer): string | undefined {
  switch (answer.code) {
    case "ALLOWED":
      return answer.admissionId;
    case "REQUEST_ALREADY_SETTLED":
    case "MODEL_NOT_PRICED":
      return undefined;
  }
  return answer.retryAfterSeconds === undefined ? undefined : `wait ${answer.retryAfterSeconds} s`;
}

console.log(ask, key, report);
