/**
 * Pods in virtual machines: cold RunPodSandbox with one container running, exec, reading through the root file system, memory. Medians of
 * one run, beside the aims. KVM where a kernel boots with it, TCG elsewhere: the heading says which.
 *
 *   sudo bench/run vm [--rounds 7] [--json FILE]
 *
 * Kata publishes (hardware not stated): boot to workload 0.71 s with QEMU, from the host's `date` before the start to the container's;
 * footprint 122,832 KB a container, the PSS of hypervisor, virtiofsd and shim of 20 idle pods.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
const RUNTIME = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.vm";
const READ_MB = 64;
const MIB = 1 << 20;
const EXECS = 10;

const work = mkdtempSync("/var/tmp/berth-bench-vm-");
const state = mkdtempSync("/run/berth-bench-vm-");
writeFileSync(`${work}/kata.toml`, "[hypervisor.qemu]\ndefault_memory = 256\ndefault_maxmemory = 256\n");
writeFileSync(
  `${work}/config.toml`,
  `version = 3\n[${RUNTIME}]\nruntime_type = "io.containerd.berth-vm.v1"\n[${RUNTIME}.options]\nConfigPath = "${work}/kata.toml"\n`,
);
mkdirSync(`${work}/berth/root/vm`, { recursive: true });
await makeGuestImage(`${work}/berth/root/vm/image`);
const peer = await startBerth({ work, run: state }, await busyboxArchive(work, IMAGE), [
  "--config",
  `${work}/config.toml`,
]);
try {
  const client = connect(peer.socket);
  await report(await measured(client));
  client.close();
} finally {
  await peer.service.stop();
  await run(["sh", "-c", `ip link delete ${peer.bridge} 2>/dev/null; true`]);
  for (const directory of [work, state]) rmSync(directory, { recursive: true, force: true });
}

interface Figures {
  /** kvm or tcg. */
  accelerator: string;
  readonly start: number[];
  readonly exec: number[];
  readonly read: number[];
  readonly hostRead: number[];
  readonly memory: number[];
}

async function measured({ runtime }: Client): Promise<Figures> {
  const figures: Figures = { accelerator: "", start: [], exec: [], read: [], hostRead: [], memory: [] };
  const hostFile = `${work}/file`;
  writeFileSync(hostFile, Buffer.alloc(READ_MB * MIB));
  for (let round = 0; round < Number(flags.rounds); round++) {
    const config = sandboxConfig();
    const began = performance.now();
    const { podSandboxId } = await runtime.runPodSandbox({ config, runtimeHandler: "vm" });
    const container = {
      metadata: { name: "main", attempt: 0 },
      image: { image: IMAGE },
      command: ["/bin/sh", "-c", "while :; do sleep 1000; done"],
      linux: { securityContext: { namespaceOptions: { pid: cri.NamespaceMode.CONTAINER } } },
    };
    const { containerId } = await runtime.createContainer({ podSandboxId, config: container, sandboxConfig: config });
    await runtime.startContainer({ containerId });
    figures.start.push(performance.now() - began);
    const machine = readFileSync(`${state}/berth/vm/${podSandboxId.slice(0, 20)}/machine.json`, "utf8");
    figures.accelerator = (JSON.parse(machine) as { accelerator: string }).accelerator;
    const exec = (script: string) => runtime.execSync({ containerId, cmd: ["/bin/sh", "-c", script], timeout: 60n });
    for (let count = 0; count < EXECS; count++) figures.exec.push(await timed(() => exec("true")));
    const programs = processesLike(new RegExp(`(${state}/berth/vm/|^bosun-(relay|proxy))`));
    figures.memory.push(programs.reduce((sum, pid) => sum + pss(pid), 0) / MIB);
    await exec(`dd if=/dev/zero of=/file bs=1M count=${READ_MB}; sync`);
    figures.read.push(await timed(() => exec("cat /file >/dev/null")));
    figures.hostRead.push(await timed(() => Promise.resolve(readFileSync(hostFile))));
    await runtime.removePodSandbox({ podSandboxId });
  }
  return figures;
}

async function timed(call: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await call();
  return performance.now() - began;
}

async function report({ accelerator, start, exec, read, hostRead, memory }: Figures): Promise<void> {
  const image = await readImage(`${work}/berth/root/vm/image`);
  const rows = [
    ["", "median", "aim"],
    ["cold RunPodSandbox and a container running, ms", median(start).toFixed(0), "4500"],
    ["exec of true, ms", median(exec).toFixed(1), "50"],
    ["an idle pod's programs, PSS, MB", median(memory).toFixed(1), ""],
    ["guest user space, unpacked, MB", ((image?.initrdSize ?? 0) / MIB).toFixed(1), "5"],
    [
      "64 MB read through the root file system, times as long as the host",
      (median(read) / median(hostRead)).toFixed(1),
      "",
    ],
  ];
  console.log(`${accelerator}, ${start.length} rounds\n${table(rows)}`);
  if (flags.json !== undefined)
    writeFileSync(flags.json, JSON.stringify({ accelerator, start, exec, read, hostRead, memory }));
}
