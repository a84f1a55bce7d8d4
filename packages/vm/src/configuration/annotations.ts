/** io.katacontainers.config.*: keys of the configuration that a pod may set for itself, where the configuration lets it. */
import { canonical, isTable, type Table } from "./document.ts";
import { keysOf } from "./driver-keys.ts";
import { HYPERVISOR_KEYS } from "./hypervisor-keys.ts";
import type { Key } from "./key.ts";
import { nearest } from "@berth/spec/nearest";
import { AGENT_KEYS, RUNTIME_KEYS } from "./other-keys.ts";
import { matchesGlob } from "node:path";
import { INIT_DATA_ANNOTATION, POLICY_ANNOTATION } from "../policy/annotations.ts";

const PREFIX = "io.katacontainers.config.";

/** Where an annotation's name is not the key's. */
const OTHER_NAMES: Readonly<Record<string, string>> = {
  default_max_vcpus: "default_maxvcpus",
  blk_logical_sector_size: "block_device_logical_sector_size",
  blk_physical_sector_size: "block_device_physical_sector_size",
  block_device_num_queues: "num_queues",
  block_device_queue_size: "queue_size",
};

/** Programs and files of the host: only what the configuration's patterns allow. */
const GUARDED: Readonly<Record<string, string>> = {
  path: "valid_hypervisor_paths",
  virtio_fs_daemon: "valid_virtio_fs_daemon_paths",
  entropy_source: "valid_entropy_sources",
  file_mem_backend: "valid_file_mem_backends",
};

/** What a pod may never say: who may say what. */
const NEVER = /^(enable_annotations|valid_.*)$/;

/** Writes what the annotations say into the document; what may not be said is a problem. */
export function applyAnnotations(
  document: Table,
  hypervisor: string,
  annotations: Readonly<Record<string, string>>,
  problems: string[],
): void {
  for (const [annotation, text] of Object.entries(annotations)) {
    if (!annotation.startsWith(PREFIX) || annotation === POLICY_ANNOTATION) continue;
    const [table = "", last = "", ...more] = annotation.slice(PREFIX.length).split(".");
    const tables: Readonly<Record<string, readonly [Readonly<Record<string, Key>>, readonly string[]]>> = {
      hypervisor: [keysOf(canonical(hypervisor)), ["hypervisor", hypervisor]],
      runtime: [RUNTIME_KEYS, ["runtime"]],
      agent: [AGENT_KEYS, ["agent", agentName(document)]],
    };
    if (annotation === INIT_DATA_ANNOTATION) {
      const refusal = refusalOf(tableIn(document, ["hypervisor", hypervisor]), last, text);
      if (refusal !== undefined) problems.push(`annotation ${annotation}: ${refusal}`);
      continue;
    }
    const [keys, path] = tables[table] ?? [];
    const name = OTHER_NAMES[last] ?? last;
    const key = keys?.[name];
    if (!keys || !path || !key || more.length > 0 || NEVER.test(name)) {
      problems.push(`annotation ${annotation}: ${unknownWord(last, keys)}`);
      continue;
    }
    const target = tableIn(document, path);
    const refusal = table === "hypervisor" ? refusalOf(target, last, text) : undefined;
    const value = parsed(text, key);
    if (refusal !== undefined) problems.push(`annotation ${annotation}: ${refusal}`);
    else if (value === undefined) problems.push(`annotation ${annotation}: "${text}" is not ${ARTICLES[key.type]}`);
    else if (key.use === "refused" && text !== "" && value !== key.fallback)
      problems.push(`annotation ${annotation}: ${key.note}`);
    else target[name] = value;
  }
}

const ARTICLES = {
  string: "a text",
  integer: "a whole number",
  number: "a number",
  boolean: "true or false",
  strings: "a list",
  list: "a list",
};

function unknownWord(name: string, keys: Readonly<Record<string, Key>> | undefined): string {
  if (/_hash$|^asset_hash_type$/.test(name))
    return "what is started is checked by nobody else's digest here; name the file in the configuration";
  const guess =
    keys &&
    nearest(
      name,
      Object.keys(keys).filter((key) => !NEVER.test(key)),
    );
  return `no such key${guess === undefined ? "" : `; did you mean ${guess}?`}`;
}

/** `target`: the hypervisor's table, which says who may. */
function refusalOf(target: Table, name: string, text: string): string | undefined {
  const allowed = (target["enable_annotations"] ?? HYPERVISOR_KEYS.enable_annotations.fallback) as readonly string[];
  if (!allowed.some((pattern) => new RegExp(`^(?:${pattern})$`).test(name)))
    return `not allowed; the configuration's enable_annotations must name it (it has ${allowed.join(", ") || "none"})`;
  const guard = GUARDED[name];
  if (guard === undefined) return undefined;
  const patterns = (target[guard] ?? []) as readonly string[];
  if (patterns.some((pattern) => matchesGlob(text, pattern))) return undefined;
  return `"${text}" matches no pattern of the configuration's ${guard}`;
}

function parsed(text: string, key: Key): unknown {
  switch (key.type) {
    case "boolean":
      return text === "true" ? true : text === "false" ? false : undefined;
    case "integer":
      return /^-?\d+$/.test(text) ? Number(text) : undefined;
    case "number":
      return /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : undefined;
    case "strings":
      return text
        .split(/[;,]/)
        .map((part) => part.trim())
        .filter((part) => part !== "");
    case "list":
      return undefined;
    case "string":
      return text;
  }
}

const agentName = (document: Table): string => {
  const agents = document["agent"];
  return (isTable(agents) ? Object.keys(agents)[0] : undefined) ?? "kata";
};

function tableIn(document: Table, path: readonly string[]): Table {
  let at = document;
  for (const name of path) {
    const next = at[name];
    at = isTable(next) ? next : (at[name] = {});
  }
  return at;
}
