/** What the CNI plugins take alone, started by nobody's runtime: the part of a pod's start and stop that no runtime decides. */
import { mkdirSync } from "node:fs";
import { networkOf } from "./peers.ts";
import { run } from "./process.ts";

const BIN = "/usr/lib/cni";
const BRIDGE = "abench0";
let serial = 0;

export class Plugins {
  readonly #plugins: readonly Record<string, unknown>[];
  readonly #times: Record<string, number[]>;

  /** With the network that both runtimes have, on a bridge of its own; times go to `times`. */
  constructor(work: string, times: Record<string, number[]>) {
    const dir = `${work}/plugins`;
    mkdirSync(dir, { recursive: true });
    this.#plugins = networkOf(dir, BRIDGE, "10.203.0.0/20").plugins;
    this.#times = times;
  }

  /** ADD and DEL of one namespace, as libcni calls the plugins. */
  async round(): Promise<void> {
    const id = `berth-bench-alone-${process.pid}-${++serial}`;
    await run(["ip", "netns", "add", id]);
    try {
      let result: unknown;
      const added = performance.now();
      for (const plugin of this.#plugins) result = JSON.parse(await this.#call("ADD", plugin, id, result));
      const deleted = performance.now();
      (this.#times["RunPodSandbox"] ??= []).push(deleted - added);
      for (const plugin of this.#plugins.toReversed()) await this.#call("DEL", plugin, id, result);
      (this.#times["StopPodSandbox"] ??= []).push(performance.now() - deleted);
    } finally {
      await run(["ip", "netns", "delete", id]);
    }
  }

  async close(): Promise<void> {
    await run(["ip", "link", "delete", BRIDGE]);
  }

  async #call(command: string, plugin: Record<string, unknown>, id: string, prevResult: unknown): Promise<string> {
    const conf = { ...plugin, cniVersion: "1.0.0", name: BRIDGE, ...(prevResult === undefined ? {} : { prevResult }) };
    const env = {
      PATH: process.env["PATH"],
      CNI_PATH: BIN,
      CNI_COMMAND: command,
      CNI_CONTAINERID: id,
      CNI_NETNS: `/run/netns/${id}`,
      CNI_IFNAME: "eth0",
    };
    return await run([`${BIN}/${String(plugin["type"])}`], { input: JSON.stringify(conf), env });
  }
}
