/**
 * Pods in virtual machines: RunPodSandbox with one container running, booted and copied from a template, in turns; exec, reading through the
 * root file system, memory. Medians of one run, beside the aims. KVM where a kernel boots with it, TCG elsewhere: the heading says which.
 *
 *   sudo bench/run vm [--rounds 7] [--json FILE]
 *
 * Kata publishes (hardware not stated): boot to workload 0.71 s with QEMU, from the host's `date` before the start to the container's;
 * footprint 122,832 KB a container, the PSS of hypervisor, virtiofsd and shim of 20 idle pods, 5 s after the last. Here it is by how much the
 * PSS of all machines' programs grows with one more idle pod, as long after; and beside it the same with that part of its memory which
 * nobody has touched since it was copied, and which PSS does not count.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";
import { type Client, connect } from "@berth/cli";
import { cri } from "@berth/spec";
import { readImage } from "@berth/vm";
import { busyboxArchive } from "../scripts/busybox-image.ts";
import { median, table } from "./lib/figures.ts";
import { makeGuestImage } from "./lib/guest-image.ts";
import { sandboxConfig } from "./lib/life.ts";
import { processesLike, pss } from "./lib/memory.ts";
import { IMAGE, startBerth } from "./lib/peers.ts";
import { run } from "./lib/process.ts";

const { values: flags } = parseArgs({
  options: { rounds: { type: "string", default: "7" }, json: { type: "string" } },
});
const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const READ_MB = 64;
const MIB = 1 << 20;
const EXECS = 10;
const TEMPLATE_MS = 120_000;
/** As Kata's. */
const SETTLE_MS = 5_000;

const work = mkdtempSync("/var/tmp/berth-bench-vm-");
const state = mkdtempSync("/run/berth-bench-vm-");
const handlers = { vm: "", cold: "[factory]\nenable_template = false\n" };
for (const [name, more] of Object.entries(handlers))
  writeFileSync(`${work}/${name}.toml`, `[hypervisor.qemu]\ndefault_memory = 256\ndefault_maxmemory = 256\n${more}`);
const tables = Object.keys(handlers).map(
  (name) =>
    `[${RUNTIMES}.${name}]\nruntime_type = "io.containerd.berth-vm.v1"\n[${RUNTIMES}.${name}.options]\nConfigPath = "${work}/${name}.toml"\n`,
);
writeFileSync(`${work}/config.toml`, `version = 3\n${tables.join("")}`);
mkdirSync(`${work}/berth/root/vm`, { recursive: true });
await makeGuestImage(`${work}/berth/root/vm/image`);
const peer = await startBerth({ work, run: state }, await busyboxArchive(work, IMAGE), [
  "--config",
  `${work}/config.toml`,
]);
try {
  const client = connect(peer.socket);
  try {
    await report(await measured(client));
  } finally {
    for (const { id } of (await client.runtime.listPodSandbox({})).items)
      await client.runtime.removePodSandbox({ podSandboxId: id });
    client.close();
  }
} finally {
  await peer.service.stop();
  await run(["sh", "-c", `ip link delete ${peer.bridge} 2>/dev/null; true`]);
  for (const directory of [work, state]) rmSync(directory, { recursive: true, force: true });
}

interface Figures {
  /** kvm or tcg. */
  accelerator: string;
  readonly cold: number[];
  readonly start: number[];
  readonly exec: number[];
  readonly read: number[];
  readonly hostRead: number[];
  readonly memory: number[];
  readonly wholeMemory: number[];
}

interface Pod {
  readonly ms: number;
  readonly podSandboxId: string;
  readonly containerId: string;
}

async function startPod({ runtime }: Client, runtimeHandler: keyof typeof handlers): Promise<Pod> {
  const config = sandboxConfig();
  const began = performance.now();
  const { podSandboxId } = await runtime.runPodSandbox({ config, runtimeHandler });
  const container = {
    metadata: { name: "main", attempt: 0 },
    image: { image: IMAGE },
    command: ["/bin/sh", "-c", "while :; do sleep 1000; done"],
    linux: { securityContext: { namespaceOptions: { pid: cri.NamespaceMode.CONTAINER } } },
  };
  const { containerId } = await runtime.createContainer({ podSandboxId, config: container, sandboxConfig: config });
  await runtime.startContainer({ containerId });
  return { ms: performance.now() - began, podSandboxId, containerId };
}

/** The first pod boots, and the template is made behind it. */
async function makeTemplate(client: Client): Promise<void> {
  const { podSandboxId } = await startPod(client, "vm");
  const templates = `${work}/berth/root/vm/templates`;
  const isMade = (): boolean =>
    existsSync(templates) &&
    readdirSync(templates).some((name) => existsSync(`${templates}/${name}/template.json`) && !name.startsWith("."));
  for (const end = Date.now() + TEMPLATE_MS; !isMade(); await pause(100))
    if (Date.now() > end) throw new Error("no template was made");
  await client.runtime.removePodSandbox({ podSandboxId });
}

async function measured(client: Client): Promise<Figures> {
  const { runtime } = client;
  const figures: Figures = {
    accelerator: "",
    cold: [],
    start: [],
    exec: [],
    read: [],
    hostRead: [],
    memory: [],
    wholeMemory: [],
  };
  const hostFile = `${work}/file`;
  writeFileSync(hostFile, Buffer.alloc(READ_MB * MIB));
  await makeTemplate(client);
  // What one more pod has in common with others is theirs already.
  await startPod(client, "vm");
  for (let round = 0; round < Number(flags.rounds); round++) {
    const cold = await startPod(client, "cold");
    figures.cold.push(cold.ms);
    await runtime.removePodSandbox({ podSandboxId: cold.podSandboxId });

    const before = footprint();
    const { ms, podSandboxId, containerId } = await startPod(client, "vm");
    figures.start.push(ms);
    const machine = readFileSync(`${state}/berth/vm/${podSandboxId.slice(0, 20)}/machine.json`, "utf8");
    figures.accelerator = (JSON.parse(machine) as { accelerator: string }).accelerator;
    await pause(SETTLE_MS);
    const after = footprint();
    figures.memory.push(after.pss - before.pss);
    figures.wholeMemory.push(after.whole - before.whole);

    const exec = (script: string) => runtime.execSync({ containerId, cmd: ["/bin/sh", "-c", script], timeout: 60n });
    for (let count = 0; count < EXECS; count++) figures.exec.push(await timed(() => exec("true")));
    await exec(`dd if=/dev/zero of=/file bs=1M count=${READ_MB}; sync`);
    figures.read.push(await timed(() => exec("cat /file >/dev/null")));
    figures.hostRead.push(await timed(() => Promise.resolve(readFileSync(hostFile))));
    await runtime.removePodSandbox({ podSandboxId });
  }
  return figures;
}

/** MB of all machines' programs. `whole`: with all of the guests' memory that is there, whoever has it mapped. */
function footprint(): { pss: number; whole: number } {
  let [total, whole] = [0, 0];
  for (const pid of processesLike(new RegExp(`(${state}/berth/vm/|^bosun-(relay|proxy))`))) {
    const own = pss(pid);
    total += own;
    whole += own - pssOf(pid, "Pss_Shmem") + memoryFile(pid);
  }
  return { pss: total / MIB, whole: whole / MIB };
}

function pssOf(pid: number, field: string): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(new RegExp(`^${field}: +(\\d+) kB$`, "m").exec(text)?.[1] ?? 0) * 1024;
}

/** Bytes that a copy's memory takes: descriptor 3 of its hypervisor. */
function memoryFile(pid: number): number {
  const file = `/proc/${pid}/fd/3`;
  if (!readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("\0-incoming\0")) return 0;
  return statSync(file).blocks * 512;
}

async function timed(call: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await call();
  return performance.now() - began;
}

async function report(figures: Figures): Promise<void> {
  const { accelerator, cold, start, exec, read, hostRead, memory, wholeMemory } = figures;
  const image = await readImage(`${work}/berth/root/vm/image`);
  const rows = [
    ["", "median", "aim"],
    ["cold RunPodSandbox and a container running, ms", median(cold).toFixed(0), "4500"],
    ["the same from a template, ms", median(start).toFixed(0), "600"],
    ["exec of true, ms", median(exec).toFixed(1), "50"],
    ["private memory of one more idle pod from a template, PSS, MB", median(memory).toFixed(1), "60"],
    ["the same with what nobody has touched, MB", median(wholeMemory).toFixed(1), ""],
    ["guest user space, unpacked, MB", ((image?.initrdSize ?? 0) / MIB).toFixed(1), "5"],
    [
      "64 MB read through the root file system, times as long as the host",
      (median(read) / median(hostRead)).toFixed(1),
      "",
    ],
  ];
  console.log(`${accelerator}, ${start.length} rounds\n${table(rows)}`);
  if (flags.json !== undefined) writeFileSync(flags.json, JSON.stringify(figures));
}
