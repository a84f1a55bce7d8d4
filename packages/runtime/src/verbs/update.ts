/** update: other limits for a container that is there. What is not given stays as it is. */
import { readFileSync } from "node:fs";
import { readHost, updateResources, type HostFacts } from "@berth/kernel";
import { oci } from "@berth/spec/oci";
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { cgroupsOf, checkLimits } from "../command/rootless.ts";
import type { Flags } from "../command/flags.ts";
import { PlanError } from "../context.ts";
import { intelRdtUpdate } from "../rdt.ts";
import type { ContainerRecord } from "../state/record.ts";
import { statusOf } from "../state/status.ts";

const STDIN = 0;

export const command: Command = {
  async run({ args: [id = ""], flags, states, log, front }) {
    const record = states.read(id);
    if (flags.has("kernel-memory") || flags.has("kernel-memory-tcp"))
      log.warning("Kernel memory settings are ignored and will be removed");
    const given = flags.text("resources");
    const asked =
      given === ""
        ? resourcesOf(flags)
        : (oci.parseSpec(readFileSync(given === "-" ? STDIN : given, "utf8")) as oci.LinuxResources);
    const before = record.berth.spec.linux?.resources;
    const resources = fixed(asked, before);
    // Devices are not changed: others (a GPU's runtime) may have added some to what the configuration says.
    const { devices: _devices, ...changed } = resources;
    const machine = readHost();
    const host = cgroupsOf(record, machine);
    checkLimits(machine, host, changed);
    const rdt = rdtOf(flags, record, host);
    if (statusOf(record, states) === "stopped") throw new CommandError("container not running");
    if (record.berth.unit !== undefined) {
      const { updateUnit } = await import("../command/systemd.ts");
      await updateUnit(record, changed, host);
    }
    const hand = await front();
    hand.run(updateResources(record.berth.cgroup, changed, host));
    if (rdt !== undefined) hand.run(rdt.plan);
    const linux = {
      ...record.berth.spec.linux,
      resources: { ...before, ...merged(before, changed) },
      ...(rdt !== undefined && { intelRdt: rdt.intelRdt }),
    };
    states.write({ ...record, berth: { ...record.berth, spec: { ...record.berth.spec, linux } } });
    return 0;
  },
};

/** Undefined where none is asked for. Throws CommandError. */
function rdtOf(flags: Flags, record: ContainerRecord, host: HostFacts): ReturnType<typeof intelRdtUpdate> | undefined {
  const [l3CacheSchema, memBwSchema] = [flags.text("l3-cache-schema"), flags.text("mem-bw-schema")];
  if (l3CacheSchema === "" && memBwSchema === "") return undefined;
  const changed = { ...(l3CacheSchema && { l3CacheSchema }), ...(memBwSchema && { memBwSchema }) };
  try {
    return intelRdtUpdate(record.berth.spec, { id: record.id, pid: record.init_process_pid, host }, changed);
  } catch (error) {
    if (!(error instanceof PlanError)) throw error;
    throw new CommandError(error.message.replace(/^[^:]*: /, ""), { cause: error });
  }
}

function resourcesOf(flags: Flags): oci.LinuxResources {
  const unsigned = (name: string) => integer(flags, name, /^\d+$/);
  const signed = (name: string) => integer(flags, name, /^[+-]?\d+$/);
  const bytes = (name: string) => bytesOf(flags, name);
  const weight = flags.number("blkio-weight");
  return {
    ...section("cpu", {
      shares: unsigned("cpu-share"),
      quota: signed("cpu-quota"),
      period: unsigned("cpu-period"),
      burst: unsigned("cpu-burst"),
      realtimeRuntime: signed("cpu-rt-runtime"),
      realtimePeriod: unsigned("cpu-rt-period"),
      idle: signed("cpu-idle"),
      cpus: flags.text("cpuset-cpus") || undefined,
      mems: flags.text("cpuset-mems") || undefined,
    }),
    ...section("memory", {
      limit: bytes("memory"),
      swap: bytes("memory-swap"),
      reservation: bytes("memory-reservation"),
    }),
    ...section("pids", { limit: flags.has("pids-limit") ? flags.number("pids-limit") : undefined }),
    ...section("blockIO", { weight: weight === 0 ? undefined : weight }),
  };
}

/** A part of the resources without what was not given; nothing where that is all. */
function section(name: string, values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
  return Object.keys(given).length === 0 ? {} : { [name]: given };
}

function integer(flags: Flags, name: string, shape: RegExp): oci.U64 | undefined {
  const text = flags.text(name);
  if (text === "") return undefined;
  if (!shape.test(text))
    throw new CommandError(`invalid value for ${name}: parsing ${JSON.stringify(text)}: invalid syntax`);
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : BigInt(text);
}

const UNITS = "bkmgtp";

/** Docker's sizes: 64m, 1.5G, 512KiB, bytes without a unit; -1 for none. */
function bytesOf(flags: Flags, name: string): number | undefined {
  const text = flags.text(name);
  if (text === "") return undefined;
  if (text === "-1") return -1;
  const match = /^(\d+(?:\.\d+)?) ?(?:([kmgtp])i?)?b?$/i.exec(text);
  if (match === null) throw new CommandError(`invalid value for ${name}: invalid size: '${text}'`);
  return Math.trunc(Number(match[1]) * 1024 ** Math.max(0, UNITS.indexOf((match[2] ?? "b").toLowerCase())));
}

/** Values that only make sense with others: those come from what the container has, or from what the kernel wants. */
function fixed(asked: oci.LinuxResources, before: oci.LinuxResources | undefined): oci.LinuxResources {
  const { memory, cpu } = asked;
  const swapFree = memory !== undefined && Number(memory.limit) === -1 && memory.swap === undefined;
  const cpuFixed =
    cpu === undefined
      ? undefined
      : {
          ...cpu,
          // A quota without its period, or the other way round, leaves the other as it was.
          ...(cpu.quota !== undefined && cpu.period === undefined && before?.cpu?.period !== undefined
            ? { period: before.cpu.period }
            : {}),
          ...(cpu.period !== undefined && cpu.quota === undefined && before?.cpu?.quota !== undefined
            ? { quota: before.cpu.quota }
            : {}),
        };
  return {
    ...asked,
    ...(cpuFixed === undefined ? {} : { cpu: cpuFixed }),
    ...(swapFree ? { memory: { ...memory, swap: -1 } } : {}),
  };
}

/** Section by section, so that a new limit does not forget the others. */
function merged(before: oci.LinuxResources = {}, changed: oci.LinuxResources): oci.LinuxResources {
  return {
    ...changed,
    ...(changed.cpu === undefined ? {} : { cpu: { ...before.cpu, ...changed.cpu } }),
    ...(changed.memory === undefined ? {} : { memory: { ...before.memory, ...changed.memory } }),
    ...(changed.blockIO === undefined ? {} : { blockIO: { ...before.blockIO, ...changed.blockIO } }),
  };
}
