/** What must hold of a configuration before anything is made of it (config.md, config-linux.md). Pure. */
import { NAMESPACE_TYPES, type Spec } from "./runtime.ts";

export interface SpecProblem {
  /** As in "mounts[3].destination". */
  readonly field: string;
  readonly message: string;
}

export interface SpecReport {
  /** The specification forbids it, or it cannot be carried out. */
  readonly errors: readonly SpecProblem[];
  /** It can be carried out, but is probably not meant so. */
  readonly warnings: readonly SpecProblem[];
}

/** The only major version there is. */
const MAJOR = 1;
const MAX_ID = 0xffff_fffe;
const MAX_UMASK = 0o777;
const MAX_HOSTNAME = 64;
/** Lines that the kernel takes in a map file (user_namespaces(7)). */
const MOST_MAPPINGS = 340;

/** JSON as it came: nothing is known of its types. */
type Json = Readonly<Record<string, unknown>>;

class Findings {
  readonly errors: SpecProblem[] = [];
  readonly warnings: SpecProblem[] = [];

  error(field: string, message: string): void {
    this.errors.push({ field, message });
  }

  warn(field: string, message: string): void {
    this.warnings.push({ field, message });
  }

  /** The object, or undefined where it is absent; anything else is an error. */
  object(field: string, value: unknown): Json | undefined {
    if (value === undefined) return undefined;
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
    this.error(field, "is not an object");
    return undefined;
  }

  /** The objects of a list, with the field of each. */
  objects(field: string, value: unknown): (readonly [field: string, item: Json])[] {
    return this.list(field, value).flatMap((item, index) => {
      const object = this.object(`${field}[${index}]`, item ?? null);
      return object === undefined ? [] : [[`${field}[${index}]`, object] as const];
    });
  }

  /** The list, or an empty one where it is absent; anything else is an error. */
  list(field: string, value: unknown): readonly unknown[] {
    if (value === undefined) return [];
    if (Array.isArray(value)) return value;
    this.error(field, "is not a list");
    return [];
  }

  /** The texts of a list. */
  texts(field: string, value: unknown): readonly string[] {
    return this.list(field, value).flatMap((item, index) =>
      this.text(`${field}[${index}]`, item ?? null) ? [item as string] : [],
    );
  }

  /** Whether a value that is there is a text that C can hold. */
  text(field: string, value: unknown): boolean {
    if (value === undefined) return true;
    if (typeof value !== "string") this.error(field, "is not a text");
    else if (value.includes("\0")) this.error(field, "has a NUL byte");
    else return true;
    return false;
  }

  /** A path inside the container, or of the host. */
  absolute(field: string, path: unknown): void {
    if (typeof path !== "string" || !path.startsWith("/"))
      this.error(field, `${JSON.stringify(path)} is not an absolute path`);
    else this.text(field, path);
  }

  /** Absent is fine. */
  boolean(field: string, value: unknown): void {
    if (value !== undefined && typeof value !== "boolean") this.error(field, "is neither true nor false");
  }

  integer(field: string, value: unknown, low: number, high: number): void {
    if (typeof value !== "number" || !Number.isInteger(value) || value < low || value > high) {
      this.error(field, `${String(value)} is not a whole number from ${low} to ${high}`);
    }
  }

  /** A number of 64 bits, signed or not; absent is fine. */
  amount(field: string, value: unknown): void {
    if (value !== undefined && typeof value !== "bigint" && !(typeof value === "number" && Number.isInteger(value)))
      this.error(field, "is not a whole number");
  }
}

/** All problems, each with the path of its field; nothing is looked up on the machine. Takes any JSON value. */
export function validateSpec(spec: Spec): SpecReport {
  const found = new Findings();
  const json = found.object("", spec ?? null);
  if (json !== undefined) checkSpec(found, json);
  return { errors: found.errors, warnings: found.warnings };
}

function checkSpec(found: Findings, spec: Json): void {
  checkVersion(found, spec["ociVersion"]);
  for (const field of ["hostname", "domainname"]) {
    if (found.text(field, spec[field]) && Buffer.byteLength((spec[field] as string | undefined) ?? "") > MAX_HOSTNAME)
      found.error(field, `is longer than ${MAX_HOSTNAME} bytes`);
  }
  const root = found.object("root", spec["root"]);
  if (root !== undefined && (typeof root["path"] !== "string" || root["path"] === ""))
    found.error("root.path", "is missing");
  const process = found.object("process", spec["process"]);
  if (process !== undefined) checkProcess(found, process);
  for (const [field, mount] of found.objects("mounts", spec["mounts"])) checkMount(found, mount, field);
  for (const [kind, hooks] of Object.entries(found.object("hooks", spec["hooks"]) ?? {})) {
    for (const [field, hook] of found.objects(`hooks.${kind}`, hooks)) checkHook(found, hook, field);
  }
  const linux = found.object("linux", spec["linux"]);
  if (linux !== undefined) checkLinux(found, linux);
}

function checkVersion(found: Findings, version: unknown): void {
  const match = typeof version === "string" ? /^(\d+)\.(\d+)\.(\d+)(?:[-+].*)?$/.exec(version) : null;
  if (match === null) found.error("ociVersion", `${JSON.stringify(version)} is not a version, as in "1.3.0"`);
  else if (Number(match[1]) !== MAJOR) found.error("ociVersion", `${match[0]} is not supported; this is ${MAJOR}.x`);
}

function checkProcess(found: Findings, process: Json): void {
  found.absolute("process.cwd", process["cwd"]);
  found.texts("process.args", process["args"]);
  for (const [index, entry] of found.texts("process.env", process["env"]).entries()) {
    if (!/^[^=]+=/.test(entry)) found.warn(`process.env[${index}]`, `${JSON.stringify(entry)} has no "name="`);
  }
  for (const field of ["terminal", "noNewPrivileges"]) found.boolean(`process.${field}`, process[field]);
  for (const field of ["apparmorProfile", "selinuxLabel"]) found.text(`process.${field}`, process[field]);
  if (process["user"] === undefined) found.error("process.user", "is missing");
  else checkUser(found, process["user"]);
  if (process["oomScoreAdj"] !== undefined) found.integer("process.oomScoreAdj", process["oomScoreAdj"], -1000, 1000);
  const ioPriority = found.object("process.ioPriority", process["ioPriority"]);
  if (ioPriority !== undefined) found.integer("process.ioPriority.priority", ioPriority["priority"], 0, 7);
  checkScheduler(found, found.object("process.scheduler", process["scheduler"]));
  checkRlimits(found, process["rlimits"]);
  const capabilities = found.object("process.capabilities", process["capabilities"]) ?? {};
  for (const set of ["bounding", "effective", "inheritable", "permitted", "ambient"])
    found.texts(`process.capabilities.${set}`, capabilities[set]);
  const size = found.object("process.consoleSize", process["consoleSize"]);
  if (size === undefined) return;
  if (process["terminal"] !== true) found.warn("process.consoleSize", "has no meaning without process.terminal");
  for (const field of ["height", "width"]) found.integer(`process.consoleSize.${field}`, size[field], 0, 0xffff);
}

function checkUser(found: Findings, value: unknown): void {
  const user = found.object("process.user", value ?? null);
  if (user === undefined) return;
  found.integer("process.user.uid", user["uid"], 0, MAX_ID);
  found.integer("process.user.gid", user["gid"], 0, MAX_ID);
  for (const [index, gid] of found.list("process.user.additionalGids", user["additionalGids"]).entries())
    found.integer(`process.user.additionalGids[${index}]`, gid, 0, MAX_ID);
  if (user["umask"] !== undefined) found.integer("process.user.umask", user["umask"], 0, MAX_UMASK);
}

function checkScheduler(found: Findings, scheduler: Json | undefined): void {
  if (scheduler === undefined) return;
  found.texts("process.scheduler.flags", scheduler["flags"]);
  for (const field of ["nice", "priority", "runtime", "deadline", "period"])
    found.amount(`process.scheduler.${field}`, scheduler[field]);
}

function checkRlimits(found: Findings, rlimits: unknown): void {
  const seen = new Set<unknown>();
  for (const [field, limit] of found.objects("process.rlimits", rlimits)) {
    if (seen.has(limit["type"])) found.error(`${field}.type`, `${String(limit["type"])} is given twice`);
    seen.add(limit["type"]);
    for (const side of ["soft", "hard"]) found.amount(`${field}.${side}`, limit[side] ?? null);
  }
}

function checkMount(found: Findings, mount: Json, field: string): void {
  const { destination } = mount;
  if (typeof destination !== "string" || destination === "") found.error(`${field}.destination`, "is missing");
  else if (found.text(`${field}.destination`, destination) && !destination.startsWith("/"))
    found.warn(`${field}.destination`, `${JSON.stringify(destination)} is not absolute: taken from "/"`);
  for (const name of ["type", "source"]) found.text(`${field}.${name}`, mount[name]);
  found.texts(`${field}.options`, mount["options"]);
  if ((mount["uidMappings"] === undefined) !== (mount["gidMappings"] === undefined))
    found.error(field, "uidMappings and gidMappings go together");
}

function checkHook(found: Findings, hook: Json, field: string): void {
  found.absolute(`${field}.path`, hook["path"]);
  const { timeout } = hook;
  if (timeout !== undefined && !(typeof timeout === "number" && timeout > 0))
    found.error(`${field}.timeout`, `${JSON.stringify(timeout)} is not above 0 seconds`);
}

function checkLinux(found: Findings, linux: Json): void {
  checkNamespaces(found, linux);
  checkMappings(found, linux["uidMappings"], "linux.uidMappings");
  checkMappings(found, linux["gidMappings"], "linux.gidMappings");
  for (const name of ["maskedPaths", "readonlyPaths"]) {
    for (const [index, path] of found.list(`linux.${name}`, linux[name]).entries())
      found.absolute(`linux.${name}[${index}]`, path);
  }
  for (const [field, device] of found.objects("linux.devices", linux["devices"])) checkDevice(found, device, field);
  for (const [name, value] of Object.entries(found.object("linux.sysctl", linux["sysctl"]) ?? {}))
    found.text(`linux.sysctl[${JSON.stringify(name)}]`, value ?? null);
  for (const name of ["cgroupsPath", "rootfsPropagation", "mountLabel"]) found.text(`linux.${name}`, linux[name]);
  checkResources(found, found.object("linux.resources", linux["resources"]) ?? {});
  const seccomp = found.object("linux.seccomp", linux["seccomp"]);
  if (seccomp !== undefined && seccomp["defaultAction"] === undefined)
    found.error("linux.seccomp.defaultAction", "is missing");
}

function checkDevice(found: Findings, device: Json, field: string): void {
  found.absolute(`${field}.path`, device["path"]);
  const { type } = device;
  if (typeof type !== "string" || !["c", "b", "u", "p"].includes(type))
    return found.error(`${field}.type`, `${JSON.stringify(type)} is none of c, b, u, p`);
  if (type !== "p" && (device["major"] === undefined || device["minor"] === undefined))
    return found.error(field, "a device needs major and minor numbers");
  for (const name of ["major", "minor", "fileMode", "uid", "gid"])
    if (device[name] !== undefined) found.integer(`${field}.${name}`, device[name], 0, MAX_ID);
}

function checkResources(found: Findings, resources: Json): void {
  for (const [field, rule] of found.objects("linux.resources.devices", resources["devices"])) {
    if (typeof rule["allow"] !== "boolean") found.error(`${field}.allow`, "is missing");
    for (const name of ["type", "access"]) found.text(`${field}.${name}`, rule[name]);
    for (const name of ["major", "minor"]) found.amount(`${field}.${name}`, rule[name]);
  }
  for (const [name, texts] of [
    ["memory", ["disableOOMKiller", "useHierarchy", "checkBeforeUpdate"]],
    ["cpu", ["cpus", "mems"]],
    ["pids", []],
  ] as const) {
    const field = `linux.resources.${name}`;
    for (const [key, value] of Object.entries(found.object(field, resources[name]) ?? {})) {
      if (!(texts as readonly string[]).includes(key)) found.amount(`${field}.${key}`, value ?? null);
      else if (name === "cpu") found.text(`${field}.${key}`, value ?? null);
      else found.boolean(`${field}.${key}`, value ?? null);
    }
  }
  for (const [field, limit] of found.objects("linux.resources.hugepageLimits", resources["hugepageLimits"])) {
    found.text(`${field}.pageSize`, limit["pageSize"] ?? null);
    found.amount(`${field}.limit`, limit["limit"] ?? null);
  }
  for (const [file, value] of Object.entries(found.object("linux.resources.unified", resources["unified"]) ?? {}))
    found.text(`linux.resources.unified[${JSON.stringify(file)}]`, value ?? null);
  for (const name of ["blockIO", "network", "rdma"]) found.object(`linux.resources.${name}`, resources[name]);
}

function checkNamespaces(found: Findings, linux: Json): void {
  const seen = new Set<unknown>();
  for (const [field, { type, path }] of found.objects("linux.namespaces", linux["namespaces"])) {
    if (!(NAMESPACE_TYPES as readonly unknown[]).includes(type))
      found.error(`${field}.type`, `${JSON.stringify(type)} is not a namespace type`);
    if (seen.has(type)) found.error(`${field}.type`, `${String(type)} is given twice`);
    seen.add(type);
    if (path !== undefined && path !== "") found.absolute(`${field}.path`, path);
  }
  if (Array.isArray(linux["uidMappings"]) && linux["uidMappings"].length > 0 && !seen.has("user"))
    found.error("linux.uidMappings", "needs a user namespace");
}

/** user_namespaces(7): no overlaps on either side. */
function checkMappings(found: Findings, value: unknown, field: string): void {
  const mappings = found.objects(field, value);
  if (mappings.length > MOST_MAPPINGS)
    found.error(field, `has ${mappings.length} mappings; the kernel takes ${MOST_MAPPINGS}`);
  for (const [index, [one, mapping]] of mappings.entries()) {
    found.integer(`${one}.containerID`, mapping["containerID"], 0, MAX_ID);
    found.integer(`${one}.hostID`, mapping["hostID"], 0, MAX_ID);
    found.integer(`${one}.size`, mapping["size"], 1, MAX_ID);
    const clash = mappings
      .slice(0, index)
      .findIndex(([, other]) => meets(mapping, other, "containerID") || meets(mapping, other, "hostID"));
    if (clash >= 0) found.error(one, `overlaps ${field}[${clash}]`);
  }
}

function meets(one: Json, other: Json, side: "containerID" | "hostID"): boolean {
  const [start, size, otherStart, otherSize] = [
    Number(one[side]),
    Number(one["size"]),
    Number(other[side]),
    Number(other["size"]),
  ];
  return start < otherStart + otherSize && otherStart < start + size;
}
