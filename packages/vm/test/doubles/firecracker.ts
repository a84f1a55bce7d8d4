/** A double of Firecracker, by its OpenAPI description (src/firecracker/swagger, v1.12): what it takes, when, and what it answers. */
import { accessSync } from "node:fs";
import type { Machine, Program } from "../../src/hypervisor/machine.ts";
import { type Double, optionsOf, type Reply, Sockets, type State, type Told } from "./double.ts";
import { boolean, from, integer, object, oneOf, problemOf, type Shape, text } from "./shapes.ts";

const bucket = object({ size: from(0), refill_time: from(0) }, { one_time_burst: from(0) });
const limiter = object({}, { bandwidth: bucket, ops: bucket });

/** By method and route, "*" for an id; with whether it is for a machine that has not started, or for one that has. */
const REQUESTS: Readonly<Record<string, readonly [when: "before" | "after" | "always", body: Shape]>> = {
  "PUT /machine-config": [
    "before",
    object(
      { mem_size_mib: integer, vcpu_count: from(1, 32) },
      {
        smt: boolean,
        track_dirty_pages: boolean,
        huge_pages: oneOf("None", "2M"),
        cpu_template: oneOf("C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"),
      },
    ),
  ],
  "PUT /boot-source": ["before", object({ kernel_image_path: text }, { boot_args: text, initrd_path: text })],
  "PUT /drives/*": [
    "before",
    object(
      { drive_id: text, is_root_device: boolean },
      {
        partuuid: text,
        cache_type: oneOf("Unsafe", "Writeback"),
        is_read_only: boolean,
        path_on_host: text,
        rate_limiter: limiter,
        io_engine: oneOf("Sync", "Async"),
        socket: text,
      },
    ),
  ],
  "PATCH /drives/*": ["after", object({ drive_id: text }, { path_on_host: text, rate_limiter: limiter })],
  "PUT /network-interfaces/*": [
    "before",
    object(
      { host_dev_name: text, iface_id: text },
      { guest_mac: text, rx_rate_limiter: limiter, tx_rate_limiter: limiter },
    ),
  ],
  "PUT /vsock": ["before", object({ guest_cid: from(3), uds_path: text }, { vsock_id: text })],
  "PUT /entropy": ["before", object({}, { rate_limiter: limiter })],
  "PUT /balloon": [
    "before",
    object({ amount_mib: integer, deflate_on_oom: boolean }, { stats_polling_interval_s: integer }),
  ],
  "PATCH /balloon": ["after", object({ amount_mib: integer })],
  "PUT /actions": ["always", object({ action_type: oneOf("FlushMetrics", "InstanceStart", "SendCtrlAltDel") })],
  "PATCH /vm": ["after", object({ state: oneOf("Paused", "Resumed") })],
};

const OPTIONS = { "--api-sock": "value", "--id": "value", "--level": "value", "--no-seccomp": "flag" } as const;

interface Drive {
  readonly drive_id: string;
  path_on_host: string;
}

/** Started by its command line. */
export async function startFirecracker(program: Program, _machine: Machine): Promise<Double> {
  const options = optionsOf(program, OPTIONS);
  if (!/^[A-Za-z0-9-]{1,64}$/.test(options.get("--id")?.[0] ?? "")) throw new Error("Invalid instance ID");
  const double = new Firecracker();
  await double.sockets.http(options.get("--api-sock")?.[0] ?? "", (...request) => double.answer(...request));
  return double;
}

class Firecracker implements Double {
  readonly sockets = new Sockets();
  readonly #said = new Map<string, Record<string, unknown>>();
  readonly #drives = new Map<string, Drive>();
  readonly #nics = new Map<string, { host_dev_name: string; guest_mac: string }>();
  state: State = "none";
  #refusal: string | undefined;

  refuseNext(words: string): void {
    this.#refusal = words;
  }

  told(): Told {
    const machine = this.#said.get("/machine-config") as { vcpu_count: number; mem_size_mib: number };
    const boot = this.#said.get("/boot-source") as {
      kernel_image_path: string;
      initrd_path?: string;
      boot_args: string;
    };
    return {
      vcpus: machine.vcpu_count,
      mib: machine.mem_size_mib,
      kernel: boot.kernel_image_path,
      initrd: boot.initrd_path,
      commandLine: boot.boot_args,
      disks: [...this.#drives.values()]
        .map(({ path_on_host: path }) => path)
        .filter((path) => !path.endsWith("/placeholder")),
      nics: [...this.#nics.values()].map(({ host_dev_name: tap, guest_mac: mac }) => ({ tap, mac })),
      shares: [],
      vsock: this.#said.get("/vsock")?.["uds_path"] as string | undefined,
    };
  }

  async kill(): Promise<void> {
    await this.sockets[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  answer(method: string, route: string, body: unknown): Reply {
    if (method === "GET") return this.#get(route);
    const [, folder = "", id] = /^(\/[a-z-]+)(?:\/([^/]*))?$/.exec(route) ?? [];
    const request = REQUESTS[`${method} ${folder}${id === undefined ? "" : "/*"}`];
    if (!request) return fault(`Invalid request method and/or path: ${method} ${route}.`);
    if (id !== undefined && !/^\w+$/.test(id))
      return fault(`API Resource IDs can only contain alphanumeric characters and underscores: ${id}`);
    const [when, shape] = request;
    const problem = problemOf(body, shape);
    if (problem !== undefined)
      return fault(`An error occurred when deserializing the json body of a request: ${problem}.`);
    if (when === "before" && this.state !== "none")
      return fault("The requested operation is not supported after starting the microVM.");
    if (when === "after" && this.state === "none")
      return fault("The requested operation is not supported before starting the microVM.");
    if (this.#refusal !== undefined) {
      const words = this.#refusal;
      this.#refusal = undefined;
      return fault(words);
    }
    return this.#do(method, folder, id, body as Record<string, unknown>);
  }

  #get(route: string): Reply {
    const state = { none: "Not started", running: "Running", paused: "Paused" }[this.state];
    if (route === "/")
      return { status: 200, body: { app_name: "Firecracker", id: "pod", state, vmm_version: "1.12.1" } };
    if (route !== "/vm/config") return fault(`Invalid request method and/or path: GET ${route}.`);
    const machine = this.#said.get("/machine-config") ?? { vcpu_count: 1, mem_size_mib: 128 };
    return { status: 200, body: { drives: [...this.#drives.values()], "machine-config": machine } };
  }

  #do(method: string, folder: string, id: string | undefined, body: Record<string, unknown>): Reply {
    switch (`${method} ${folder}`) {
      case "PUT /drives":
      case "PATCH /drives":
        return this.#drive(method, id ?? "", body as { drive_id: string; path_on_host: string });
      case "PUT /network-interfaces":
        if (body["iface_id"] !== id) return fault("The id from the path does not match the id from the body!");
        this.#nics.set(id ?? "", body as { host_dev_name: string; guest_mac: string });
        return done;
      case "PUT /actions":
        return this.#act(body["action_type"] as string);
      case "PATCH /vm":
        this.state = body["state"] === "Paused" ? "paused" : "running";
        return done;
      case "PATCH /balloon":
        if (!this.#said.has("/balloon")) return fault("No balloon device found.");
        this.#said.set("/balloon", { ...this.#said.get("/balloon"), ...body });
        return done;
      default:
        this.#said.set(folder, body);
        return done;
    }
  }

  #drive(method: string, id: string, body: { drive_id: string; path_on_host: string }): Reply {
    if (body.drive_id !== id) return fault("The id from the path does not match the id from the body!");
    try {
      accessSync(body.path_on_host);
    } catch {
      return fault(`Unable to create the block device: Error opening the backing file: ${body.path_on_host}`);
    }
    const old = this.#drives.get(id);
    if (method === "PATCH") {
      if (!old) return fault(`Device with ID ${id} was not found.`);
      old.path_on_host = body.path_on_host;
    } else this.#drives.set(id, { ...body });
    return done;
  }

  #act(action: string): Reply {
    if (action !== "InstanceStart") return done;
    if (this.state !== "none") return fault("The requested operation is not supported after starting the microVM.");
    if (!this.#said.has("/boot-source")) return fault("Cannot start microvm without kernel configuration.");
    this.state = "running";
    return done;
  }
}

const done: Reply = { status: 204 };
const fault = (words: string): Reply => ({ status: 400, body: { fault_message: words } });
