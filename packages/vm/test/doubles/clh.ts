/** A double of Cloud Hypervisor, by its OpenAPI description (vmm/src/api/openapi, v51): what it takes, when, and what it answers. */
import { appendFileSync, existsSync, writeFileSync } from "node:fs";
import type { Machine, Program } from "../../src/hypervisor/machine.ts";
import { type Double, optionsOf, partsOf, type Reply, Sockets, type State, type Told } from "./double.ts";
import { boolean, from, integer, list, object, oneOf, problemOf, type Shape, text } from "./shapes.ts";

const onPci = { id: text, pci_segment: integer, iommu: boolean };
const bucket = object({ size: from(0), refill_time: from(0) }, { one_time_burst: from(0) });
const limiter = object({}, { bandwidth: bucket, ops: bucket });
const queue = { num_queues: integer, queue_size: integer, vhost_user: boolean, vhost_socket: text };

const disk = object(
  {},
  {
    ...onPci,
    ...queue,
    path: text,
    readonly: boolean,
    direct: boolean,
    rate_limiter_config: limiter,
    serial: text,
    rate_limit_group: text,
    queue_affinity: list(object({ queue_index: integer, host_cpus: list(integer) })),
    backing_files: boolean,
    sparse: boolean,
    image_type: oneOf("FixedVhd", "Qcow2", "Raw", "Vhdx", "Unknown"),
  },
);
const net = object(
  {},
  {
    ...onPci,
    ...queue,
    tap: text,
    ip: text,
    mask: text,
    mac: text,
    host_mac: text,
    mtu: integer,
    vhost_mode: text,
    rate_limiter_config: limiter,
    offload_tso: boolean,
    offload_ufo: boolean,
    offload_csum: boolean,
  },
);
const device = object({}, { ...onPci, path: text, x_nv_gpudirect_clique: integer });
const fs = object(
  { num_queues: integer, queue_size: integer, socket: text, tag: text },
  { id: text, pci_segment: integer },
);
const console = object(
  { mode: oneOf("Off", "Pty", "Tty", "File", "Socket", "Null") },
  { file: text, socket: text, iommu: boolean },
);
const vmConfig = object(
  {
    payload: object({}, { firmware: text, kernel: text, cmdline: text, initramfs: text, igvm: text, host_data: text }),
  },
  {
    cpus: object(
      { boot_vcpus: from(1), max_vcpus: from(1) },
      { kvm_hyperv: boolean, max_phys_bits: integer, nested: boolean },
    ),
    memory: object(
      { size: integer },
      {
        hotplug_size: integer,
        hotplugged_size: integer,
        mergeable: boolean,
        hotplug_method: text,
        shared: boolean,
        hugepages: boolean,
        hugepage_size: integer,
        prefault: boolean,
        thp: boolean,
      },
    ),
    disks: list(disk),
    net: list(net),
    fs: list(fs),
    rng: object({ src: text }, { iommu: boolean }),
    balloon: object({ size: integer }, { deflate_on_oom: boolean, free_page_reporting: boolean }),
    pmem: list(object({ file: text }, { ...onPci, size: integer, discard_writes: boolean })),
    serial: console,
    console,
    vsock: object({ cid: from(3), socket: text }, onPci),
    iommu: boolean,
    devices: list(device),
    watchdog: boolean,
    pvpanic: boolean,
  },
);

interface Config {
  payload: { kernel?: string; cmdline?: string; initramfs?: string };
  cpus: { boot_vcpus: number; max_vcpus: number };
  memory: { size: number; hotplug_size?: number; hotplugged_size?: number; hotplug_method?: string };
  disks?: { id?: string; path?: string }[];
  net?: { id?: string; tap?: string; mac?: string }[];
  devices?: { id?: string }[];
  fs?: { tag: string }[];
  vsock?: { socket: string };
  balloon?: { size: number };
}

const BODIES: Readonly<Record<string, Shape>> = {
  "vm.create": vmConfig,
  "vm.add-disk": disk,
  "vm.add-net": net,
  "vm.add-fs": fs,
  "vm.add-device": device,
  "vm.remove-device": object({}, { id: text }),
  "vm.resize-disk": object({}, { id: text, desired_size: integer }),
  "vm.resize": object({}, { desired_vcpus: from(1), desired_ram: integer, desired_balloon: integer }),
};

const OPTIONS = {
  "--api-socket": "value",
  "--event-monitor": "value",
  "--log-file": "value",
  "--seccomp": "value",
  "-v": "flag",
  "-vv": "flag",
  "-vvv": "flag",
} as const;

/** Started by its command line. */
export async function startClh(program: Program, machine: Machine): Promise<Double> {
  const options = optionsOf(program, OPTIONS);
  const double = new Clh(partsOf(options.get("--event-monitor")?.[0] ?? "").get("path"), machine);
  await double.sockets.http(partsOf(options.get("--api-socket")?.[0] ?? "").get("path") ?? "", (...request) =>
    double.answer(...request),
  );
  return double;
}

class Clh implements Double {
  readonly sockets = new Sockets();
  readonly #events: string | undefined;
  #config: Config | undefined;
  state: State = "none";
  #refusal: string | undefined;

  constructor(events: string | undefined, _machine: Machine) {
    this.#events = events;
    if (events !== undefined) writeFileSync(events, "");
  }

  refuseNext(words: string): void {
    this.#refusal = words;
  }

  told(): Told {
    const config = this.#config;
    if (!config) throw new Error("no machine has been told of");
    return {
      vcpus: config.cpus.boot_vcpus,
      mib: config.memory.size / (1 << 20),
      kernel: config.payload.kernel ?? "",
      initrd: config.payload.initramfs,
      commandLine: config.payload.cmdline ?? "",
      disks: (config.disks ?? []).map(({ path = "" }) => path),
      nics: (config.net ?? []).map(({ tap = "", mac = "" }) => ({ tap, mac })),
      shares: (config.fs ?? []).map(({ tag }) => tag),
      vsock: config.vsock?.socket,
    };
  }

  async kill(): Promise<void> {
    await this.sockets[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  answer(method: string, route: string, body: unknown): Reply {
    const name = /^\/api\/v1\/([^?]+)$/.exec(route)?.[1];
    if (name === undefined) return { status: 404, body: ["Error from API", "no such path"] };
    if (method === "GET") return this.#get(name);
    const shape = BODIES[name];
    const problem = shape ? problemOf(body, shape) : body === undefined ? undefined : "a body where none is";
    if (problem !== undefined) return { status: 400, body: ["Error from API", "Failed to parse the request", problem] };
    if (this.#refusal !== undefined) {
      const words = this.#refusal;
      this.#refusal = undefined;
      return { status: 500, body: ["Error from API", words] };
    }
    return this.#put(name, body);
  }

  #get(name: string): Reply {
    if (name === "vmm.ping")
      return { status: 200, body: { build_version: "v51.1", version: "51.1", pid: 1, features: ["kvm"] } };
    if (name !== "vm.info") return { status: 404 };
    if (!this.#config) return missing;
    const state = { none: "Created", running: "Running", paused: "Paused" }[this.state];
    const { size, hotplugged_size: more = 0 } = this.#config.memory;
    return {
      status: 200,
      body: { config: this.#config, state, memory_actual_size: size + more - (this.#config.balloon?.size ?? 0) },
    };
  }

  #put(name: string, body: unknown): Reply {
    switch (name) {
      case "vm.create":
        if (this.#config) return failed("The VM is already created");
        this.#config = body as Config;
        return done;
      case "vmm.shutdown":
        setImmediate(() => void this.kill());
        return done;
    }
    const config = this.#config;
    if (!config) return missing;
    switch (name) {
      case "vm.boot":
        return this.#from("none", "running");
      case "vm.pause":
        return this.#from("running", "paused");
      case "vm.resume":
        return this.#from("paused", "running");
      case "vm.add-disk":
        return this.#add((config.disks ??= []), body as { id?: string });
      case "vm.add-device":
        if (!existsSync((body as { path: string }).path)) return failed("Failed to open the VFIO device");
        return this.#add((config.devices ??= []), body as { id?: string });
      case "vm.add-net":
        return this.#add((config.net ??= []), body as { id?: string });
      case "vm.remove-device":
        return this.#remove(config, (body as { id: string }).id);
      case "vm.resize-disk":
        if (!config.disks?.some(({ id }) => id === (body as { id: string }).id))
          return { status: 404, body: ["Error from API", "The disk could not be resized"] };
        return done;
      case "vm.resize":
        return resize(config, body as Resize);
      default:
        return { status: 404 };
    }
  }

  #from(before: State, after: State): Reply {
    if (this.state !== before) return { status: 405, body: ["Error from API", "Invalid VM state transition"] };
    this.state = after;
    return done;
  }

  #add(devices: { id?: string }[], device: { id?: string }): Reply {
    if (devices.some(({ id }) => id === device.id))
      return { status: 409, body: ["Error from API", "Identifier is not unique"] };
    devices.push(device);
    return { status: 200, body: { id: device.id, bdf: "0000:00:05.0" } };
  }

  /** The guest lets go of it a moment later. */
  #remove(config: Config, wanted: string): Reply {
    for (const devices of [config.disks, config.net, config.devices])
      for (const [index, { id }] of (devices ?? []).entries())
        if (id === wanted) {
          devices?.splice(index, 1);
          setTimeout(() => this.#tell("device-removed", { id: wanted, bdf: "0000:00:05.0" }), 10);
          return done;
        }
    return { status: 404, body: ["Error from API", `Unknown device ${wanted}`] };
  }

  #tell(event: string, properties: Record<string, string>): void {
    if (this.#events === undefined) return;
    const told = { timestamp: { secs: 1, nanos: 0 }, source: "vm", event, properties };
    appendFileSync(this.#events, `${JSON.stringify(told, undefined, 2)}\n\n`);
  }
}

interface Resize {
  readonly desired_vcpus?: number;
  readonly desired_ram?: number;
  readonly desired_balloon?: number;
}

function resize(config: Config, { desired_vcpus: vcpus, desired_ram: ram, desired_balloon: balloon }: Resize): Reply {
  const { cpus, memory } = config;
  if (vcpus !== undefined) {
    if (vcpus > cpus.max_vcpus) return failed("Desired vCPU count exceeds the maximum");
    cpus.boot_vcpus = vcpus;
  }
  if (ram !== undefined) {
    const most = memory.size + (memory.hotplug_size ?? 0);
    if (ram > most || ram % (128 << 20) !== memory.size % (128 << 20))
      return failed("Invalid size of hotplugged memory");
    memory.hotplugged_size = ram - memory.size;
  }
  if (balloon !== undefined) {
    if (!config.balloon) return failed("No balloon device");
    config.balloon.size = balloon;
  }
  return done;
}

const done: Reply = { status: 204 };
const missing: Reply = { status: 404, body: ["Error from API", "The VM is not created"] };
const failed = (words: string): Reply => ({ status: 500, body: ["Error from API", words] });
