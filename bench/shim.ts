/**
 * A shim's start as containerd sees it (its program, from the start to the address), and a container's life through it: create, start,
 * end, delete of /bin/true, berth's shim and runc's in turn. Medians in milliseconds; and memory of an idle shim with its container.
 *
 *   sudo bench/run shim [--rounds 20]
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { parseBootstrap, TaskService } from "@berth/shim";
import { forward } from "@berth/spec/shim";
import { TtrpcServer } from "@berth/ttrpc";
import { median, table } from "./lib/figures.ts";

const { values: flags } = parseArgs({ options: { rounds: { type: "string", default: "20" } } });
const rounds = Number(flags.rounds);
const checkout = new URL("..", import.meta.url).pathname;
const PROGRAMS = {
  berth: join(checkout, "bin/containerd-shim-berth-v2"),
  "berth, machines": join(checkout, "bin/containerd-shim-berth-vm-v2"),
  runc: "/usr/bin/containerd-shim-runc-v2",
} as const;
type Name = keyof typeof PROGRAMS;
const NAMESPACE = "bench";

interface Figures {
  readonly start: number[];
  readonly life: number[];
  /** KiB, PSS. */
  readonly memory: number[];
}
const figures: Record<Name, Figures> = {
  berth: { start: [], life: [], memory: [] },
  "berth, machines": { start: [], life: [], memory: [] },
  runc: { start: [], life: [], memory: [] },
};

const directory = mkdtempSync(join(tmpdir(), "berth-bench-shim-"));
const address = join(directory, "c.sock");
const events = new TtrpcServer().add(forward.Events, { forward: () => Promise.resolve({}) });

function makeBundle(id: string): string {
  const bundle = join(directory, id);
  const bin = join(bundle, "rootfs/bin");
  mkdirSync(bin, { recursive: true });
  for (const name of ["proc", "dev"]) mkdirSync(join(bundle, "rootfs", name));
  cpSync("/bin/busybox", join(bin, "busybox"));
  symlinkSync("busybox", join(bin, "true"));
  const spec = {
    ociVersion: "1.0.2",
    process: { user: { uid: 0, gid: 0 }, cwd: "/", args: ["/bin/true"], env: ["PATH=/bin"] },
    root: { path: "rootfs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
    ],
    linux: {
      namespaces: ["pid", "mount", "ipc", "uts", "network"].map((type) => ({ type })),
      cgroupsPath: `/berth-bench-shim-${process.pid}-${id}`,
    },
  };
  writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
  writeFileSync(join(bundle, "log"), "");
  return bundle;
}

const memoryOf = (pid: number): number =>
  Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1]);

async function round(name: Name, index: number): Promise<void> {
  const id = `${name.replaceAll(/\W+/g, "-")}-${index}`;
  const bundle = makeBundle(id);
  const env = { ...process.env, TTRPC_ADDRESS: `${address}.ttrpc`, BERTH_SHIM_STATE: join(directory, "run") };
  const words = ["-namespace", NAMESPACE, "-address", address, "-publish-binary", "/bin/false", "-id", id, "start"];
  const from = performance.now();
  const { status, stdout, stderr } = spawnSync(PROGRAMS[name], words, { cwd: bundle, env, input: "" });
  figures[name].start.push(performance.now() - from);
  if (status !== 0) throw new Error(`${PROGRAMS[name]} ended with ${status}: ${String(stderr)}`);
  const found = parseBootstrap(stdout);
  const service = await TaskService.connect(found, NAMESPACE);
  const { shimPid } = await service.call("connect", { id });
  if (name !== "berth, machines") {
    const began = performance.now();
    await service.call("create", { id, bundle });
    await service.call("start", { id });
    await service.call("wait", { id });
    figures[name].memory.push(memoryOf(shimPid));
    await service.call("delete", { id });
    figures[name].life.push(performance.now() - began);
  }
  await service.call("shutdown", { id, now: true }).catch(() => undefined);
  await service.closed;
  rmSync(found.address, { force: true });
}

await events.listen(`${address}.ttrpc`);
try {
  const names = Object.keys(PROGRAMS) as Name[];
  for (let index = 0; index < rounds; index++) for (const name of names) await round(name, index);
  const cell = (values: readonly number[], unit = 1): string =>
    values.length === 0 ? "" : (median(values) / unit).toFixed(1);
  console.log(
    table([
      ["shim", "start ms", "create to delete ms", "memory MiB"],
      ...names.map((name) => {
        const { start, life, memory } = figures[name];
        return [name, cell(start), cell(life), cell(memory, 1024)];
      }),
    ]),
  );
} finally {
  await events.close();
  rmSync(directory, { recursive: true, force: true });
}
