/**
 * The decider's end of `bosun runc`: the process that started this one, and that makes the container's process as its own child.
 * Calls are synchronous: a command line has nothing else to do meanwhile.
 */
import { readSync, writeSync } from "node:fs";
import { decodeHeader, decodeMessage, encodeMessage, encodePlan, HEADER_SIZE } from "../orders/encode.ts";
import type { AnyMessage, MessageFields } from "../orders/encode.ts";
import type { MessageName } from "../orders/messages.ts";
import type { Plan } from "../orders/plan.ts";
import { expect } from "./answers.ts";

export interface LaunchOptions {
  readonly plan: Plan;
  readonly terminal: boolean;
  /** "inherit": the caller's own; "relay": pipes that `attend` relays. */
  readonly stdio: "inherit" | "relay";
  /** Unix stream sockets; absent: the terminal stays for `attend`, the pidfd goes nowhere. */
  readonly consoleSocket?: string | undefined;
  readonly pidfdSocket?: { readonly path: string; readonly name: "standard" | "setns" } | undefined;
  /** Descriptors from 3 on that the process gets. */
  readonly keep: number;
  readonly subreaper: boolean;
}

export interface Launched {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat. */
  readonly pidStart: bigint;
}

export interface Announcement {
  /** Path of the container's socket, which is made. */
  readonly socket: string;
  /** As in NOTIFY_SOCKET. */
  readonly host: string;
  readonly pid?: number | undefined;
}

export class Front {
  readonly #fd: number;
  #nextId = 1;

  /** `fd`: a stream socket to bosun. */
  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Carries out a plan without `clone` in a process of its own. Throws OrderError. */
  run(plan: Plan): void {
    if (plan.orders.length > 0) expect(this.#request("run", { plan: encodePlan(plan) }), "report", "plan", plan);
  }

  /** Makes the process, up to `park` where the plan has it. Throws OrderError, with nothing left of the process. */
  launch({ plan, terminal, stdio, consoleSocket, pidfdSocket, keep, subreaper }: LaunchOptions): Launched {
    const answer = this.#request("launch", {
      plan: encodePlan(plan),
      terminal: Number(terminal),
      stdio: stdio === "relay" ? 1 : 0,
      consoleSocket: consoleSocket ?? "",
      pidfdSocket: pidfdSocket?.path ?? "",
      pidfdName: pidfdSocket?.name ?? "",
      keep,
      subreaper: Number(subreaper),
    });
    const { pid, pidStart } = expect(answer, "launched", "launch", plan);
    return { pid, pidStart };
  }

  /** Lets the parked process go on, to its exec or its FIFO. Throws OrderError, with nothing left of the process. */
  release(plan: Plan): void {
    expect(this.#request("release", {}), "report", "release", plan);
  }

  /** bosun stays as the foreground, carries out `undo` at the end, and exits as the process did: nothing is to follow this call. */
  attend(undo: Plan): void {
    expect(
      this.#request("attend", { undo: undo.orders.length > 0 ? encodePlan(undo) : new Uint8Array() }),
      "report",
      "attend",
    );
  }

  /**
   * Binds `socket` for the container's sd_notify(3). That it is ready is handed on to `host`, with MAINPID= of `pid` (undefined: of
   * the launched process), while it is attended, or before bosun ends. Throws OrderError.
   */
  notify({ socket, host, pid }: Announcement): void {
    expect(this.#request("notify", { socket, host, pid: pid ?? 0 }), "report", "notify");
  }

  /** Returns at a kill for memory in the cgroup, at the process's end, or after `timeoutMs`. Throws OrderError. */
  waitOom(watched: { readonly memory: string; readonly pid: number; readonly timeoutMs: number }): void {
    expect(this.#request("wait_oom", watched), "report", "wait for a kill for memory");
  }

  /** Kills the process and waits for its end. */
  abandon(): void {
    expect(this.#request("abandon", {}), "report", "abandon");
  }

  /** bosun exits with this status, and ends this process first. */
  end(status: number): void {
    this.#send("end", 0, { status });
  }

  #send<N extends MessageName>(name: N, id: number, fields: MessageFields<N>): void {
    const frame = encodeMessage(name, id, 0, fields);
    for (let sent = 0; sent < frame.length;) sent += writeSync(this.#fd, frame, sent);
  }

  #request<N extends MessageName>(name: N, fields: MessageFields<N>): AnyMessage {
    const id = this.#nextId++;
    this.#send(name, id, fields);
    const header = decodeHeader(this.#read(HEADER_SIZE, name));
    if (header.id !== id) throw new Error(`bosun answered request ${header.id} where ${id} (${name}) was asked`);
    return decodeMessage(header.type, this.#read(header.size, name));
  }

  #read(size: number, what: string): Buffer {
    const bytes = Buffer.alloc(size);
    for (let got = 0; got < size;) {
      const more = readSync(this.#fd, bytes, got, size - got, null);
      if (more === 0) throw new Error(`bosun ended before it answered ${what}`);
      got += more;
    }
    return bytes;
  }
}
