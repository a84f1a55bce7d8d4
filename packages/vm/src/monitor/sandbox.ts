/** All metrics of one pod's machine, by Kata's names. */
import { type HostFacts, readCgroupStats, readRecord } from "@berth/kernel";
import type { GuestTools } from "../guest/runtime.ts";
import { programDirectory } from "../sandbox/host.ts";
import { type Family, mergeFamilies, parseExposition } from "./exposition.ts";
import { family, single } from "./families.ts";
import { Durations } from "./histogram.ts";
import { Overhead } from "./overhead.ts";
import { processFamilies } from "./processes.ts";

/** What is counted of a machine from its start, or from when this process found it. */
export class MachineCounters {
  /** Of the CRI's or shim's verbs. */
  readonly verbs = new Durations("action");
  /** Of what was asked of the guest, by Kata's names of requests. */
  readonly requests = new Durations("action");
}

export interface Measured {
  readonly directory: string;
  /** Of the hypervisor and its helpers; undefined: not known. */
  readonly cgroup: string | undefined;
  readonly host: HostFacts;
  readonly guest: GuestTools;
  readonly counters: MachineCounters;
}

/** An agent of Kata's counts it by itself. */
const SCRAPES = "kata_agent_scrape_count";

export class SandboxMetrics {
  readonly #measured: Measured;
  readonly #overhead = new Overhead();
  #scrapes = 0;

  constructor(measured: Measured) {
    this.#measured = measured;
  }

  /** Rejects where the guest does not answer. */
  async families(): Promise<Family[]> {
    const { directory, guest, counters } = this.#measured;
    this.#scrapes++;
    const pids = await pidsOf(directory);
    const [hypervisor, virtiofsd, shim, ofGuest, overhead] = await Promise.all([
      processFamilies("hypervisor", pids.hypervisor),
      processFamilies("virtiofsd", pids.virtiofsd),
      processFamilies("shim", pids.helpers),
      guest.metrics().then((text) => parseExposition(text).map(renamed)),
      this.#overheadNow(),
    ]);
    return mergeFamilies([
      ...hypervisor,
      ...virtiofsd,
      ...shim,
      ...overhead,
      family("kata_shim_rpc_durations_histogram_milliseconds", counters.verbs.samples()),
      family("kata_shim_agent_rpc_durations_histogram_milliseconds", counters.requests.samples()),
      ...ofGuest,
      ...(ofGuest.some(({ name }) => name === SCRAPES) ? [] : [single(SCRAPES, this.#scrapes)]),
    ]);
  }

  async #overheadNow(): Promise<Family[]> {
    const { cgroup, host, guest } = this.#measured;
    if (cgroup === undefined) return [];
    const [node, inside] = await Promise.all([readCgroupStats(cgroup, host), guest.usage()]);
    if (!inside) return [];
    return this.#overhead.families({ node, guest: inside });
  }
}

/** As Kata's shim does with what a Go agent says of itself. */
const renamed = (one: Family): Family =>
  /^(go|process)_/.test(one.name) ? { ...one, name: `kata_agent_${one.name}` } : one;

async function pidsOf(directory: string): Promise<Record<"hypervisor" | "virtiofsd" | "helpers", number[]>> {
  const running = async (name: "hypervisor" | "virtiofsd" | "relay"): Promise<{ pid: number; monitor: number }[]> => {
    const record = await readRecord(programDirectory(directory, name));
    return record?.phase === "running" ? [{ pid: record.pid, monitor: record.monitorPid }] : [];
  };
  const [hypervisor, virtiofsd, relay] = await Promise.all([
    running("hypervisor"),
    running("virtiofsd"),
    running("relay"),
  ]);
  return {
    hypervisor: hypervisor.map(({ pid }) => pid),
    virtiofsd: virtiofsd.map(({ pid }) => pid),
    helpers: [...relay.map(({ pid }) => pid), ...[...hypervisor, ...virtiofsd, ...relay].map(({ monitor }) => monitor)],
  };
}
