/** A Hand that carries nothing out: it keeps what it was asked for, and answers from a script. For tests of policy. */
import type { Socket } from "node:net";
import type { Plan } from "../orders/plan.ts";
import { encodePlan } from "../orders/encode.ts";
import type {
  CallOptions,
  Command,
  CommandResult,
  Created,
  Hand,
  MonitorRequest,
  Outputs,
  TreeMeta,
  TreeWriter,
} from "./hand.ts";

export type Recorded =
  | { readonly call: "run"; readonly plan: Plan }
  | { readonly call: "spawn"; readonly command: Command }
  | { readonly call: "monitor"; readonly request: MonitorRequest }
  | { readonly call: "tree"; readonly path: string; readonly entries: readonly RecordedEntry[] }
  | { readonly call: "dial"; readonly netns: string; readonly port: number }
  | { readonly call: "close" };

export interface RecordedEntry {
  readonly entry: keyof TreeWriter;
  readonly path?: string;
  readonly mode?: number;
  readonly meta?: TreeMeta;
  readonly target?: string;
  readonly bytes?: Uint8Array;
  readonly size?: bigint;
}

/** Answers by call; what is not scripted succeeds with nothing. A script that throws makes the call reject. */
export interface Script {
  readonly run?: (plan: Plan) => Outputs | Promise<Outputs>;
  readonly spawn?: (command: Command) => CommandResult | Promise<CommandResult>;
  readonly monitor?: (request: MonitorRequest) => Created | Promise<Created>;
  /** Without it no port answers. */
  readonly dial?: (netns: string, port: number) => Socket | Promise<Socket>;
}

const NOTHING = new Uint8Array();
const FIRST_PID = 1_000;

export class RecordingHand implements Hand {
  readonly calls: Recorded[] = [];
  readonly #script: Script;
  #pid = FIRST_PID;

  constructor(script: Script = {}) {
    this.#script = script;
  }

  /** The plans of `run` and `monitor` calls, in order. */
  get plans(): Plan[] {
    return this.calls.flatMap((one) =>
      one.call === "run" ? [one.plan] : one.call === "monitor" ? [one.request.plan] : [],
    );
  }

  async run(plan: Plan, options?: CallOptions): Promise<Outputs> {
    this.#record({ call: "run", plan }, options);
    encodePlan(plan);
    return (await this.#script.run?.(plan)) ?? new Map();
  }

  async spawn(command: Command, options?: CallOptions): Promise<CommandResult> {
    this.#record({ call: "spawn", command }, options);
    return (
      (await this.#script.spawn?.(command)) ?? {
        status: 0,
        signal: 0,
        stdout: NOTHING,
        stderr: NOTHING,
        truncated: false,
      }
    );
  }

  async monitor(request: MonitorRequest, options?: CallOptions): Promise<Created> {
    this.#record({ call: "monitor", request }, options);
    encodePlan(request.plan);
    const scripted = await this.#script.monitor?.(request);
    if (scripted !== undefined) return scripted;
    const monitorPid = this.#pid++;
    return { monitorPid, pid: this.#pid++, pidStart: 1n, createdAt: 1n, outputs: new Map() };
  }

  async tree(path: string, options?: CallOptions): Promise<TreeWriter> {
    const entries: RecordedEntry[] = [];
    this.#record({ call: "tree", path, entries }, options);
    return await Promise.resolve(new RecordingTree(entries));
  }

  async dial(netns: string, port: number, options?: CallOptions): Promise<Socket> {
    this.#record({ call: "dial", netns, port }, options);
    const dialled = await this.#script.dial?.(netns, port);
    if (dialled === undefined) throw Object.assign(new Error(`dial port ${port}`), { code: "ECONNREFUSED" });
    return dialled;
  }

  async close(): Promise<void> {
    this.#record({ call: "close" });
    await Promise.resolve();
  }

  #record(call: Recorded, options?: CallOptions): void {
    options?.signal?.throwIfAborted();
    this.calls.push(call);
  }
}

class RecordingTree implements TreeWriter {
  readonly #entries: RecordedEntry[];

  constructor(entries: RecordedEntry[]) {
    this.#entries = entries;
  }

  directory(path: Uint8Array, mode: number, meta: TreeMeta): Promise<void> {
    return this.#add({ entry: "directory", path: text(path), mode, meta });
  }
  file(path: Uint8Array, mode: number, size: bigint, meta: TreeMeta): Promise<void> {
    return this.#add({ entry: "file", path: text(path), mode, size, meta });
  }
  data(bytes: Uint8Array): Promise<void> {
    return this.#add({ entry: "data", bytes: Uint8Array.from(bytes) });
  }
  hole(length: bigint): Promise<void> {
    return this.#add({ entry: "hole", size: length });
  }
  symlink(path: Uint8Array, target: Uint8Array, meta: TreeMeta): Promise<void> {
    return this.#add({ entry: "symlink", path: text(path), target: text(target), meta });
  }
  hardlink(path: Uint8Array, target: Uint8Array): Promise<void> {
    return this.#add({ entry: "hardlink", path: text(path), target: text(target) });
  }
  node(path: Uint8Array, mode: number, _major: number, _minor: number, meta: TreeMeta): Promise<void> {
    return this.#add({ entry: "node", path: text(path), mode, meta });
  }
  end(): Promise<void> {
    return this.#add({ entry: "end" });
  }
  abort(): Promise<void> {
    return this.#add({ entry: "abort" });
  }

  #add(entry: RecordedEntry): Promise<void> {
    this.#entries.push(entry);
    return Promise.resolve();
  }
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("utf8");
}
