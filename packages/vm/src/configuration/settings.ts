/** configuration.toml as values: which file, which hypervisor, every key with its default. */
import { existsSync } from "node:fs";
import { VmError } from "../errors.ts";
import { applyAnnotations } from "./annotations.ts";
import { cacheProblem } from "./cache.ts";
import { canonical, checkDocument, HYPERVISORS, isTable, readDocument, type Table } from "./document.ts";
import { type HypervisorName, keysOf } from "./driver-keys.ts";
import type { HYPERVISOR_KEYS, HypervisorValues } from "./hypervisor-keys.ts";
import type { Key, Values } from "./key.ts";
import {
  AGENT_KEYS,
  type AgentValues,
  FACTORY_KEYS,
  type FactoryValues,
  RUNTIME_KEYS,
  type RuntimeValues,
} from "./other-keys.ts";

export interface VmSettings {
  /** Undefined: there is none, and these are berth's defaults. */
  readonly file: string | undefined;
  readonly name: HypervisorName;
  readonly hypervisor: HypervisorValues;
  readonly factory: FactoryValues;
  readonly runtime: RuntimeValues;
  readonly agent: AgentValues;
  /** For a person, once: keys that are about nothing here. */
  readonly warnings: readonly string[];
}

/** kata-runtime --kata-show-default-config-paths. */
export const DEFAULT_PATHS = [
  "/etc/kata-containers/configuration.toml",
  "/usr/share/defaults/kata-containers/configuration.toml",
] as const;

export interface Search {
  /** Named by annotation io.katacontainers.config_path, or the handler's option ConfigPath, or --config: it must be there. */
  readonly named?: string | undefined;
  /** KATA_CONF_FILE. */
  readonly environment?: string | undefined;
  readonly defaults?: readonly string[];
}

/** The first that is there. A named one that is not is an error; undefined: none is anywhere. */
export function findConfiguration({ named, environment, defaults = DEFAULT_PATHS }: Search): string | undefined {
  for (const path of [named, environment]) {
    if (path === undefined || path === "") continue;
    if (!existsSync(path)) throw new VmError("InvalidConfiguration", `${path}: no such configuration file`);
    return path;
  }
  return defaults.find((path) => existsSync(path));
}

export interface LoadOptions extends Search {
  /** Of the pod: io.katacontainers.config.*. */
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Annotation of a pod, or of a container's bundle. */
const CONFIG_PATH = "io.katacontainers.config_path";

/** Throws VmError InvalidConfiguration with every problem that was found, a line each. */
export async function loadSettings(options: LoadOptions = {}): Promise<VmSettings> {
  const annotations = options.annotations ?? {};
  const file = findConfiguration({ ...options, named: annotations[CONFIG_PATH] ?? options.named });
  const document = file === undefined ? {} : await readDocument(file);
  return settingsOf(document, file, annotations);
}

export function settingsOf(
  document: Table,
  file?: string,
  annotations: Readonly<Record<string, string>> = {},
): VmSettings {
  const where = file ?? "the configuration";
  const { errors, warnings } = checkDocument(document);
  const problems = [...errors];
  const name = problems.length === 0 ? hypervisorOf(document, problems) : "qemu";
  applyAnnotations(document, name, annotations, problems);
  if (problems.length > 0)
    throw new VmError("InvalidConfiguration", problems.map((problem) => `${where}: ${problem}`).join("\n"));
  const own = tableAt(document, "hypervisor", name);
  const { factory, ...hypervisor } = own;
  const settings = {
    file,
    name: canonical(name),
    hypervisor: valuesOf(keysOf(canonical(name)) as typeof HYPERVISOR_KEYS, hypervisor),
    factory: valuesOf(FACTORY_KEYS, isTable(factory) ? factory : tableAt(document, "factory")),
    runtime: valuesOf(RUNTIME_KEYS, tableAt(document, "runtime")),
    agent: valuesOf(AGENT_KEYS, agentOf(document)),
    warnings,
  };
  checkValues(settings, where);
  return settings;
}

function hypervisorOf(document: Table, problems: string[]): string {
  const tables = Object.keys(tableAt(document, "hypervisor"));
  const asked = tableAt(document, "runtime")["hypervisor_name"];
  if (typeof asked === "string" && asked !== "") {
    if (tables.includes(asked) || (HYPERVISORS as readonly string[]).includes(asked)) return asked;
    problems.push(`[runtime] hypervisor_name: "${asked}" is none of ${HYPERVISORS.join(", ")}`);
    return "qemu";
  }
  if (tables.length > 1)
    problems.push(
      `${tables.map((name) => `[hypervisor.${name}]`).join(" and ")}: say by [runtime] hypervisor_name which counts`,
    );
  return tables[0] ?? "qemu";
}

function agentOf(document: Table): Table {
  const agents = Object.values(tableAt(document, "agent")).filter(isTable);
  const { mem_agent: _, ...own } = agents[0] ?? {};
  return own;
}

function tableAt(document: Table, ...path: readonly string[]): Table {
  let at: unknown = document;
  for (const name of path) at = isTable(at) ? at[name] : undefined;
  return isTable(at) ? at : {};
}

function valuesOf<K extends Readonly<Record<string, Key>>>(keys: K, table: Table): Values<K> {
  return Object.fromEntries(
    Object.entries(keys).map(([name, key]) => [name, table[name] ?? key.fallback]),
  ) as Values<K>;
}

const CHOICES: readonly (readonly [key: keyof HypervisorValues, values: readonly string[]])[] = [
  ["shared_fs", ["virtio-fs", "virtio-9p", "none"]],
  ["block_device_driver", ["virtio-blk", "virtio-scsi", "virtio-mmio", "nvdimm", "virtio-blk-pci", "virtio-blk-mmio"]],
  ["block_device_aio", ["threads", "native", "io_uring"]],
  ["virtio_fs_cache", ["auto", "always", "never", "none", "metadata"]],
  ["vm_rootfs_driver", ["", "virtio-pmem", "virtio-blk-pci", "virtio-blk-mmio"]],
  ["extra_monitor_socket", ["", "hmp", "qmp", "qmp-pretty"]],
  ["hot_plug_vfio", ["no-port", "root-port", "bridge-port"]],
  ["cold_plug_vfio", ["no-port", "root-port", "bridge-port"]],
  ["rootfs_type", ["", "erofs", "ext4", "xfs"]],
];

/** What the tables of types cannot say. */
function checkValues(settings: VmSettings, where: string): void {
  const { hypervisor, runtime, name, factory } = settings;
  const at = `${where}: [hypervisor.${name}]`;
  const fail = (message: string): never => {
    throw new VmError("InvalidConfiguration", message);
  };
  for (const [key, values] of CHOICES) {
    const value = hypervisor[key] as string;
    if (!values.includes(value)) fail(`${at} ${key}: "${value}" is none of ${values.filter(Boolean).join(", ")}`);
  }
  for (const key of ["hot_plug_vfio", "cold_plug_vfio"] as const) {
    const wrong = hypervisor.machine_type === "pc" ? "root-port" : "bridge-port";
    if (name === "qemu" && hypervisor[key] === wrong)
      fail(`${at} ${key}: machine_type ${hypervisor.machine_type} has no ${wrong.replace("-", " ")}s`);
  }
  if (hypervisor.rootless && hypervisor.network_queues > 1) fail(`${at} network_queues: must be 1 with rootless`);
  const { internetworking_model: model } = runtime;
  if (model === "macvtap") checkMacvtap({ hypervisor, name }, where, fail);
  else if (!["tcfilter", "none"].includes(model)) {
    const why = ["bridged", "l3forwarding"].includes(model)
      ? "is not done here; use tcfilter"
      : "is none of tcfilter, macvtap, none";
    fail(`${where}: [runtime] internetworking_model: "${runtime.internetworking_model}" ${why}`);
  }
  const { vm_cache_number: cached } = factory;
  const problem = cached > 0 ? cacheProblem(settings) : undefined;
  if (problem !== undefined) fail(`${where}: [factory] vm_cache_number: ${cached}, but ${problem}`);
  const [experiment] = runtime.experimental;
  if (experiment !== undefined) fail(`${where}: [runtime] experimental: "${experiment}" is not known here`);
  if (hypervisor.image !== "" && hypervisor.initrd !== "") fail(`${at} image and initrd: give one of them`);
}

/** A macvtap device is one file, opened by whoever starts the hypervisor; what it hands over is not for a qdisc to see. */
function checkMacvtap(
  { hypervisor, name }: Pick<VmSettings, "hypervisor" | "name">,
  where: string,
  fail: (message: string) => never,
): void {
  const at = `${where}: [runtime] internetworking_model: with "macvtap"`;
  if (name !== "qemu" && name !== "stratovirt")
    fail(`${at} the hypervisor must take an open tap, and ${name} does not`);
  if (hypervisor.network_queues > 1) fail(`${at} network_queues must be 1`);
  if (hypervisor.rx_rate_limiter_max_rate > 0) fail(`${at} rx_rate_limiter_max_rate cannot be kept`);
}
