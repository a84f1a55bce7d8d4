/**
 * Pods in virtual machines: RunPodSandbox with one container running, booted, copied from a template and taken from the cache, in turns; exec,
 * reading a file of the image through the root file system (virtio-fs, and a block device) for the first time, memory. Medians of one run, beside the aims. KVM where a kernel boots with it, TCG elsewhere: the heading says which.
 *
 *   sudo bench/run vm [--rounds 7] [--json FILE]
 *
 * Kata publishes (hardware not stated): boot to workload 0.71 s with QEMU, from the host's `date` before the start to the container's;
 * footprint 122,832 KB a container, the PSS of hypervisor, virtiofsd and shim of 20 idle pods, 5 s after the last. Here it is by how much the
 * PSS of all machines' programs grows with one more idle pod, as long after; and beside it the same with that part of its memory which
 * nobody has touched since it was copied, and which PSS does not count.
 */
import { randomBytes } from "node:crypto";
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
import { busyboxFiles, file, imageArchive } from "../scripts/busybox-image.ts";
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
const handlers = {
  vm: "[factory]\nvm_cache_number = 0\n",
  // Of another size, so that no other handler's machine is the same.
  cached: "default_maxmemory = 258\n[factory]\nvm_cache_number = 1\n",
  block: "disable_block_device_use = false\n[factory]\nvm_cache_number = 0\n",
  cold: "[factory]\nenable_template = false\n",
};
for (const [name, more] of Object.entries(handlers))
  writeFileSync(
    `${work}/${name}.toml`,
    `[hypervisor.qemu]\ndefault_memory = 256\n${more.includes("maxmemory") ? "" : "default_maxmemory = 256\n"}${more}`,
  );
const tables = Object.keys(handlers).map(
  (name) =>
    `[${RUNTIMES}.${name}]\nruntime_type = "io.containerd.berth-vm.v1"\n[${RUNTIMES}.${name}.options]\nConfigPath = "${work}/${name}.toml"\n`,
);
writeFileSync(`${work}/config.toml`, `version = 3\n${tables.join("")}`);
mkdirSync(`${work}/berth/root/vm`, { recursive: true });
await makeGuestImage(`${work}/berth/root/vm/image`);
const data = randomBytes(READ_MB * MIB);
writeFileSync(
  `${work}/image.tar`,
  imageArchive(IMAGE, [...(await busyboxFiles()), file("file", data)], { Cmd: ["sh"] }),
);
const peer = await startBerth({ work, run: state }, `${work}/image.tar`, ["--config", `${work}/config.toml`]);
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
  readonly cached: number[];
  readonly exec: number[];
  readonly read: number[];
  readonly blockRead: number[];
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
async function makeTemplate(client: Client, handler: keyof typeof handlers): Promise<void> {
  const templates = `${work}/berth/root/vm/templates`;
  const count = (): number =>
    namesIn(templates).filter((name) => existsSync(`${templates}/${name}/template.json`) && !name.startsWith("."))
      .length;
  const before = count();
  const { podSandboxId } = await startPod(client, handler);
  await until("a template", () => count() > before);
  await client.runtime.removePodSandbox({ podSandboxId });
}

function namesIn(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory) : [];
}

async function until(what: string, isSo: () => boolean): Promise<void> {
  for (const end = Date.now() + TEMPLATE_MS; !isSo(); await pause(100))
    if (Date.now() > end) throw new Error(`not within ${TEMPLATE_MS / 1000} s: ${what}`);
}

/** A machine waits, which its description names once it is ready. */
function isWaiting(): boolean {
  const machines = `${state}/berth/vm`;
  return namesIn(machines).some(
    (name) =>
      name.startsWith("vmc-") && readFileSync(`${machines}/${name}/machine.json`, "utf8").includes('"apart":true'),
  );
}

async function measured(client: Client): Promise<Figures> {
  const { runtime } = client;
  const figures: Figures = {
    accelerator: "",
    cold: [],
    start: [],
    cached: [],
    exec: [],
    read: [],
    blockRead: [],
    hostRead: [],
    memory: [],
    wholeMemory: [],
  };
  const hostFile = `${work}/file`;
  writeFileSync(hostFile, data);
  await makeTemplate(client, "vm");
  await makeTemplate(client, "cached");
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

    const exec = (id: string, script: string) =>
      runtime.execSync({ containerId: id, cmd: ["/bin/sh", "-c", script], timeout: 60n });
    for (let count = 0; count < EXECS; count++) figures.exec.push(await timed(() => exec(containerId, "true")));
    const read = (id: string): Promise<number> => timed(() => exec(id, "cat /file >/dev/null"));
    figures.read.push(await read(containerId));
    figures.hostRead.push(await timed(() => Promise.resolve(readFileSync(hostFile))));
    await runtime.removePodSandbox({ podSandboxId });

    const block = await startPod(client, "block");
    figures.blockRead.push(await read(block.containerId));
    await runtime.removePodSandbox({ podSandboxId: block.podSandboxId });

    await until("a machine waits", isWaiting);
    const cached = await startPod(client, "cached");
    figures.cached.push(cached.ms);
    // The next one is made: nobody else is to have that beside him.
    await until("a machine waits", isWaiting);
    await runtime.removePodSandbox({ podSandboxId: cached.podSandboxId });
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
  const { accelerator, cold, start, cached, exec, read, blockRead, hostRead, memory, wholeMemory } = figures;
  const image = await readImage(`${work}/berth/root/vm/image`);
  const rows = [
    ["", "median", "aim"],
    ["cold RunPodSandbox and a container running, ms", median(cold).toFixed(0), "4500"],
    ["the same from a template, ms", median(start).toFixed(0), "600"],
    ["the same from the cache, ms", median(cached).toFixed(0), ""],
    ["exec of true, ms", median(exec).toFixed(1), "50"],
    ["private memory of one more idle pod from a template, PSS, MB", median(memory).toFixed(1), "60"],
    ["the same with what nobody has touched, MB", median(wholeMemory).toFixed(1), ""],
    ["guest user space, unpacked, MB", ((image?.initrdSize ?? 0) / MIB).toFixed(1), "5"],
    [
      "64 MB of the image read by virtio-fs, times as long as the host",
      (median(read) / median(hostRead)).toFixed(1),
      "",
    ],
    [
      "64 MB of the image read from a block device, times as long as the host",
      (median(blockRead) / median(hostRead)).toFixed(1),
      "",
    ],
  ];
  console.log(`${accelerator}, ${start.length} rounds\n${table(rows)}`);
  if (flags.json !== undefined) writeFileSync(flags.json, JSON.stringify(figures));
}
