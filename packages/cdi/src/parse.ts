/** From a file's text to a specification that is valid in every respect, or an error that says where it is not. */
import { Text, type Decode, type Fields, type Value } from "./document.ts";
import { CdiError } from "./errors.ts";
import { qualifiedName, splitKind } from "./names.ts";
import type {
  CdiDevice,
  CdiHook,
  CdiMount,
  CdiSpec,
  ContainerEdits,
  DeviceNode,
  IntelRdt,
  NetDevice,
} from "./types.ts";
import { checkSpec } from "./validate.ts";

const UINT32_MAX = 0xffff_ffff;

const text: Decode<string> = (value) => (value.absent ? "" : value.string());
const texts: Decode<string[]> = (value) => value.list(text);
const uint32: Decode<number> = (value) => value.integer(0, UINT32_MAX);
const int64: Decode<number> = (value) => value.integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
const annotations: Decode<Record<string, string>> = (value) => value.map(text);
const listOf =
  <T extends object>(fields: Fields<T>, ...required: (keyof T & string)[]): Decode<T[]> =>
  (value) =>
    value.list((item) => withRequired(item, fields, required));

const NODE: Fields<DeviceNode> = {
  path: text,
  hostPath: text,
  type: text,
  major: int64,
  minor: int64,
  fileMode: uint32,
  permissions: text,
  uid: uint32,
  gid: uint32,
};
const MOUNT: Fields<CdiMount> = { hostPath: text, containerPath: text, options: texts, type: text };
const HOOK: Fields<CdiHook> = { hookName: text, path: text, args: texts, env: texts, timeout: uint32 };
const NET_DEVICE: Fields<NetDevice> = { hostInterfaceName: text, name: text };
const RDT: Fields<IntelRdt> = {
  closID: text,
  l3CacheSchema: text,
  memBwSchema: text,
  schemata: texts,
  enableMonitoring: (value) => value.boolean(),
};
const EDITS: Fields<ContainerEdits> = {
  env: texts,
  deviceNodes: listOf(NODE, "path"),
  netDevices: listOf(NET_DEVICE, "hostInterfaceName", "name"),
  hooks: listOf(HOOK, "hookName", "path"),
  mounts: listOf(MOUNT, "hostPath", "containerPath"),
  intelRdt: (value) => value.object(RDT),
  additionalGids: (value) => value.list(uint32),
};
const edits: Decode<ContainerEdits> = (value) => value.object(EDITS);
const DEVICE: Fields<CdiDevice> = { name: text, annotations, containerEdits: edits };
const SPEC: Fields<CdiSpec> = {
  cdiVersion: text,
  kind: text,
  annotations,
  devices: listOf(DEVICE, "name", "containerEdits"),
  containerEdits: edits,
};

/** Throws CdiError naming file, line, column, device and field. */
export function parseCdiSpec(content: string, file?: string): CdiSpec {
  const parsed = Text.parse(content, file);
  const root = parsed.root();
  if (root.absent) throw new CdiError({ file, line: 1, column: 1 }, "no CDI specification in it");
  const spec = locating(parsed, () => withRequired(root, SPEC, ["cdiVersion", "kind", "devices"]));
  const problem = checkSpec(spec);
  if (problem === undefined) return spec;
  throw new CdiError(
    { ...parsed.place(problem.path), device: problem.device, field: parsed.fail(problem.path, "").place.field },
    problem.what,
  );
}

function withRequired<T extends object>(value: Value, fields: Fields<T>, required: readonly (keyof T & string)[]): T {
  const result = value.object(fields);
  for (const field of required)
    if (result[field] === undefined) throw value.fail(`${JSON.stringify(field)} is missing`);
  return result;
}

/** Adds the device to an error below `devices`. */
function locating<T>(parsed: Text, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    const index = error instanceof CdiError ? /^devices\[(\d+)\]/.exec(error.place.field ?? "")?.[1] : undefined;
    if (!(error instanceof CdiError) || index === undefined) throw error;
    const device = deviceAt(parsed, Number(index));
    throw device === undefined ? error : new CdiError({ ...error.place, device }, error.what, { cause: error });
  }
}

/** Its name as far as it can be read: the error is about something else. */
function deviceAt(parsed: Text, index: number): string | undefined {
  const [kind, name] = [parsed.scalar(["kind"]), parsed.scalar(["devices", index, "name"])];
  if (name === undefined) return undefined;
  const { vendor, class: deviceClass } = splitKind(kind ?? "");
  return vendor === "" ? name : qualifiedName(vendor, deviceClass, name);
}
