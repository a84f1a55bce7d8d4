/** The JSON schema of pod and container configurations: field names, types and references of the CRI's messages. */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { CommandSpec, Context } from "./command.ts";
import { bool } from "./flags.ts";
import type { Json } from "./go/json.ts";

const BASE = "https://k8s.io/cri-api/pkg/apis/runtime/v1/";

function schemaOf(desc: DescMessage): Json {
  const found = new Map<string, Json>();
  const define = (message: DescMessage): void => {
    if (found.has(message.name)) return;
    found.set(message.name, null);
    const properties = Object.fromEntries(message.fields.map((field) => [field.name, fieldSchema(field)]));
    found.set(message.name, { properties, additionalProperties: false, type: "object" });
    for (const field of message.fields) if (field.message) define(field.message);
  };
  define(desc);
  const dashed = desc.name.replace(/([a-z])([A-Z])/g, "$1-$2").toLowerCase();
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    $id: `${BASE}${dashed}`,
    $ref: `#/$defs/${desc.name}`,
    $defs: Object.fromEntries([...found].toSorted(([a], [b]) => (a < b ? -1 : 1))),
  };
}

function fieldSchema(field: DescField): Json {
  if (field.fieldKind === "map") return { additionalProperties: itemSchema(field), type: "object" };
  return field.fieldKind === "list" ? { items: itemSchema(field), type: "array" } : itemSchema(field);
}

/** ScalarType.BOOL, STRING and BYTES; all others of the CRI are integers. */
const NAMES: Readonly<Record<number, string>> = { 8: "boolean", 9: "string", 12: "string" };

function itemSchema({ message, enum: named, scalar }: DescField): Json {
  if (message) return { $ref: `#/$defs/${message.name}` };
  if (named) return { oneOf: [{ type: "string" }, { type: "integer" }] };
  return { type: NAMES[scalar ?? 0] ?? "integer" };
}

const show = (context: Context, desc: DescMessage): void => context.print(JSON.stringify(schemaOf(desc), null, "  "));
const COMPILED =
  "The schema will be generated from the PodSandboxConfig of the CRI API compiled with this version of crictl";

/** `usage`: crictl words it differently under `pull`. */
export const podSchema = (usage: string): CommandSpec => ({
  name: "jsonschema",
  aliases: ["js"],
  usage,
  usageText: COMPILED,
  async run(context) {
    show(context, cri.PodSandboxConfigSchema);
    await Promise.resolve();
  },
});

const compiled = (kind: string, of: string): string =>
  `Print the ${kind} JSON schema, which will be generated from the ${of} of the CRI API compiled with this version of crictl`;

export const bothSchemas: CommandSpec = {
  name: "jsonschema",
  aliases: ["js"],
  usage: "Display the JSON schema for the pod or container config",
  shortOptions: true,
  flags: [
    bool("pod", compiled("pod", "PodSandboxConfig"), { aliases: ["p"] }),
    bool("container", compiled("container", "ContainerConfig"), { aliases: ["c"] }),
  ],
  async run(context) {
    const { flags } = context;
    if (!flags.isSet("pod") && !flags.isSet("container")) context.help();
    if (flags.isSet("pod")) show(context, cri.PodSandboxConfigSchema);
    if (flags.isSet("container")) show(context, cri.ContainerConfigSchema);
    await Promise.resolve();
  },
};
