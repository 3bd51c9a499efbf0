// Writes the rules of a key's fields, as openapi.yaml has them, for the forms: what the
// server refuses is said while a person types.
import { readFileSync, writeFileSync } from "node:fs";
import { parse } from "yaml";

const { schemas } = parse(readFileSync("../internal/api/openapi.yaml", "utf8")).components;
const limits = ["type", "minLength", "maxLength", "minimum", "maximum", "maxItems"];

function rule(schema) {
  if (schema.$ref?.endsWith("/CostLimit")) return { type: "money" };
  const found = Object.fromEntries(limits.filter((name) => name in schema).map((name) => [name, schema[name]]));
  if (schema.items) found.items = rule(schema.items);
  return found;
}

const [own, fields] = schemas.KeyCreate.allOf;
const [batch] = schemas.KeyBatchCreate.allOf;
const all = { ...own.properties, ...batch.properties, ...schemas[fields.$ref.split("/").pop()].properties, graceSeconds: schemas.RotateRequest.properties.graceSeconds };
const rules = Object.fromEntries(Object.entries(all).map(([name, schema]) => [name, rule(schema)]));
writeFileSync("src/api/rules.json", JSON.stringify(rules, null, 2) + "\n");
