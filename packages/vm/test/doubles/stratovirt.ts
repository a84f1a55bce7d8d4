/** A double of StratoVirt's light machine, by docs/config_guidebook.md and docs/qmp.md (v2.3): its command line, and what it answers over QMP. */
import { createServer, type Socket } from "node:net";
import type { Machine, Program } from "../../src/hypervisor/machine.ts";
import { type Double, optionsOf, partsOf, Sockets, type State, type Told } from "./double.ts";
import { boolean, integer, object, oneOf, problemOf, type Shape, text } from "./shapes.ts";

const OPTIONS = {
  ...Object.fromEntries(
    "-name -machine -cpu -smp -m -qmp -kernel -initrd -append -serial -object -device -drive -netdev -chardev -mem-path"
      .split(" ")
      .map((name) => [name, "value"] as const),
  ),
  "-D": "flag",
  "-disable-seccomp": "flag",
  "-mem-prealloc": "flag",
} as Readonly<Record<string, "flag" | "value">>;

/** By kind; the first part is the kind itself. */
const DEVICES: Readonly<Record<string, readonly string[]>> = {
  "virtio-blk-device": ["drive", "id", "serial", "iothread"],
  "virtio-net-device": ["netdev", "id", "mac", "iothread"],
  "virtio-rng-device": ["rng", "id", "max-bytes", "period"],
  "virtio-balloon-device": ["id", "deflate-on-oom", "free-page-reporting"],
  "vhost-vsock-device": ["id", "guest-cid", "vhostfd"],
  "vhost-user-fs-device": ["id", "chardev", "tag"],
};

const COMMANDS: Readonly<Record<string, Shape>> = {
  qmp_capabilities: object({}),
  quit: object({}),
  stop: object({}),
  cont: object({}),
  "query-status": object({}),
  "query-cpus": object({}),
  "query-balloon": object({}),
  balloon: object({ value: integer }),
  "blockdev-add": object(
    { "node-name": text, file: object({ driver: text, filename: text }, { aio: oneOf("off", "native", "iouring") }) },
    { cache: object({}, { direct: boolean, "no-flush": boolean }), "read-only": boolean, driver: text },
  ),
  device_add: object({ id: text, driver: text }, { addr: text, drive: text, serial: text, mac: text, netdev: text }),
  device_del: object({ id: text }),
};

const BLOCK_SLOTS = 4;

class Refusal extends Error {
  readonly class: string;
  constructor(words: string, errorClass = "GenericError") {
    super(words);
    this.class = errorClass;
  }
}

/** Started by its command line. */
export async function startStratoVirt(program: Program, _machine: Machine): Promise<Double> {
  const options = optionsOf(program, OPTIONS);
  const double = new StratoVirt(options);
  const [, path = ""] = /^unix:([^,]+),server,nowait$/.exec(options.get("-qmp")?.[0] ?? "") ?? [];
  await double.sockets.listen(
    createServer((socket) => double.serve(socket)),
    path,
  );
  return double;
}

class StratoVirt implements Double {
  readonly sockets = new Sockets();
  readonly #options: Map<string, string[]>;
  /** Id by slot. */
  readonly #slots = new Map<number, string>();
  /** Path by id. */
  readonly #nodes = new Map<string, string>();
  #balloon: number;
  state: State = "running";
  #refusal: string | undefined;

  constructor(options: Map<string, string[]>) {
    this.#options = options;
    this.#balloon = this.#mib() << 20;
    for (const device of this.#all("-device")) this.#check(device);
    for (const drive of this.#all("-drive").map(partsOf)) {
      this.#slots.set(this.#slots.size, drive.get("id") ?? "");
      this.#nodes.set(drive.get("id") ?? "", drive.get("file") ?? "");
    }
    if (this.#slots.size > BLOCK_SLOTS) throw new Error("A maximum of 4 block replaceable devices are supported.");
    const shares = this.#all("-device").some((device) => device.startsWith("vhost-user-fs-device"));
    if (shares && !/mem-share=on/.test(this.#one("-machine"))) throw new Error("the memory must be shared");
    if (!this.#one("-machine").startsWith("microvm")) throw new Error("only microvm is doubled");
  }

  #check(device: string): void {
    const [kind = "", ...rest] = device.split(",");
    const known = DEVICES[kind];
    if (!known) throw new Error(`Unsupported device: ${kind}`);
    for (const part of partsOf(rest.join(",")).keys())
      if (!known.includes(part)) throw new Error(`Invalid param '${part}' for ${kind}`);
  }

  readonly #all = (name: string): string[] => this.#options.get(name) ?? [];
  readonly #one = (name: string): string => this.#all(name)[0] ?? "";
  readonly #mib = (): number => Number(/^(\d+)M$/.exec(this.#one("-m"))?.[1]);

  refuseNext(words: string): void {
    this.#refusal = words;
  }

  told(): Told {
    const of = (name: string, kind: string): Map<string, string>[] =>
      this.#all(name)
        .filter((value) => value.startsWith(`${kind},`))
        .map(partsOf);
    return {
      vcpus: Number(this.#one("-smp")),
      mib: this.#mib(),
      kernel: this.#one("-kernel"),
      initrd: this.#all("-initrd")[0],
      commandLine: this.#one("-append"),
      disks: [...this.#slots.values()].map((id) => this.#nodes.get(id) ?? ""),
      nics: of("-device", "virtio-net-device").map((device) => ({
        tap:
          of("-netdev", "tap")
            .find((netdev) => netdev.get("id") === device.get("netdev"))
            ?.get("ifname") ?? "",
        mac: device.get("mac") ?? "",
      })),
      shares: of("-device", "vhost-user-fs-device").map((device) => device.get("tag") ?? ""),
      vsock: undefined,
    };
  }

  async kill(): Promise<void> {
    await this.sockets[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  serve(socket: Socket): void {
    const say = (message: unknown): void => void socket.write(`${JSON.stringify(message)}\r\n`);
    say({
      QMP: { version: { qemu: { micro: 1, minor: 0, major: 5 }, package: "StratoVirt-2.3.0" }, capabilities: [] },
    });
    let buffered = "";
    socket.on("data", (data: Buffer) => {
      buffered += data.toString();
      for (let end = buffered.indexOf("\n"); end >= 0; end = buffered.indexOf("\n")) {
        const line = buffered.slice(0, end);
        buffered = buffered.slice(end + 1);
        this.#answer(JSON.parse(line) as Record<string, unknown>, say);
      }
    });
  }

  #answer(message: Record<string, unknown>, say: (message: unknown) => void): void {
    const { execute, arguments: args = {}, id } = message;
    try {
      if (typeof id !== "string") throw new Refusal("invalid type: integer, expected a string");
      const shape = COMMANDS[String(execute)];
      if (!shape) throw new Refusal(`The command ${String(execute)} has not been found`, "CommandNotFound");
      const problem = problemOf(args, shape, "arguments");
      if (problem !== undefined) throw new Refusal(problem);
      if (this.#refusal !== undefined && !String(execute).startsWith("q")) {
        const words = this.#refusal;
        this.#refusal = undefined;
        throw new Refusal(words);
      }
      const answer = this.#do(String(execute), args as Record<string, unknown>, say) ?? {};
      say({ return: answer, ...(execute !== "qmp_capabilities" && { id }) });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      say({ error: { class: error.class, desc: error.message }, id });
    }
  }

  #do(command: string, args: Record<string, unknown>, say: (message: unknown) => void): unknown {
    switch (command) {
      case "quit":
        setImmediate(() => void this.kill());
        return undefined;
      case "stop":
        return void this.#from("running", "paused");
      case "cont":
        return void this.#from("paused", "running");
      case "query-cpus":
        return Array.from({ length: Number(this.#one("-smp")) }, (_, index) => ({ CPU: index, current: true }));
      case "query-balloon":
        return { actual: this.#balloon };
      case "balloon":
        return void (this.#balloon = Number(args["value"]));
      case "blockdev-add":
        if (this.#nodes.has(String(args["node-name"])))
          throw new Refusal(`${String(args["node-name"])} is already registered.`);
        return void this.#nodes.set(String(args["node-name"]), (args["file"] as { filename: string }).filename);
      case "device_add":
        return void this.#plug(String(args["id"]), String(args["driver"]), Number(args["addr"]));
      case "device_del":
        return void this.#unplug(String(args["id"]), say);
      default:
        return undefined;
    }
  }

  #from(before: State, after: State): void {
    if (this.state !== before) throw new Refusal("VM state transfer failed");
    this.state = after;
  }

  #plug(id: string, driver: string, slot: number): void {
    if (!driver.includes("blk")) throw new Refusal("Unsupported replaceable device type.");
    if (!this.#nodes.has(id)) throw new Refusal("Failed to find device configuration.");
    if (!(slot < BLOCK_SLOTS)) throw new Refusal("A maximum of 4 block replaceable devices are supported.");
    if (this.#slots.has(slot)) throw new Refusal(`The slot ${slot} is occupied already.`);
    this.#slots.set(slot, id);
  }

  #unplug(id: string, say: (message: unknown) => void): void {
    this.#nodes.delete(id);
    const [slot] = [...this.#slots].find(([, own]) => own === id) ?? [];
    if (slot === undefined) throw new Refusal("Device not found", "DeviceNotFound");
    this.#slots.delete(slot);
    say({ event: "DEVICE_DELETED", data: { device: id, path: id }, timestamp: { seconds: 1, microseconds: 1 } });
  }
}
