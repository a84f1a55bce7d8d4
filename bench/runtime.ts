/**
 * create + start + delete of /bin/true with runc's example configuration: berth in process, and as the commands berth-runc, runc and
 * crun, in one run; and `run`, which is all of that in one command. Medians in milliseconds, and ratios to runc's and crun's
 * whole-process cycles.
 *
 *   sudo bench/run runtime [--rounds 40] [--json FILE]
 *
 * crun refuses hybrid hosts: where both cgroup versions are mounted, it runs in a mount namespace without the second (entered by
 * nsenter, which costs it about a millisecond a command).
 */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cgroupRemoval, connectMonitor, killCgroup, probeHost, startHand } from "@berth/kernel";
import { planContainer, readBundle } from "@berth/runtime";
import { median, table } from "./lib/figures.ts";

const { values: flags } = parseArgs({
  options: { rounds: { type: "string", default: "40" }, json: { type: "string" } },
});
const rounds = Number(flags.rounds);
const checkout = new URL("..", import.meta.url).pathname;
const BERTH_RUNC = join(checkout, "bin/berth-runc");
const UNIFIED = "/sys/fs/cgroup/unified";

type Figures = Record<"create" | "start" | "delete" | "cycle" | "run", number[]>;
const figures = (): Figures => ({ create: [], start: [], delete: [], cycle: [], run: [] });

const directory = mkdtempSync(join(tmpdir(), "berth-bench-runtime-"));
const logFile = join(directory, "log");
const log = openSync(logFile, "w");
const bundle = makeBundle();

function makeBundle(): string {
  const bin = join(directory, "bundle/rootfs/bin");
  mkdirSync(bin, { recursive: true });
  cpSync("/bin/busybox", join(bin, "busybox"));
  symlinkSync("busybox", join(bin, "true"));
  const path = join(directory, "bundle");
  must([BERTH_RUNC, "spec", "-b", path]);
  const file = join(path, "config.json");
  const spec = JSON.parse(readFileSync(file, "utf8")) as {
    ociVersion: string;
    process: { terminal: boolean; args: string[] };
  };
  // As far as Debian's crun knows.
  spec.ociVersion = "1.0.2";
  spec.process.terminal = false;
  spec.process.args = ["/bin/true"];
  writeFileSync(file, JSON.stringify(spec));
  return path;
}

function must(argv: readonly string[]): void {
  const [program = "", ...args] = argv;
  // Not a pipe: a container's process would hold it open.
  const { status, error } = spawnSync(program, args, { stdio: ["ignore", "ignore", log] });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${argv.join(" ")} ended with ${status}:\n${readFileSync(logFile, "utf8")}`);
}

async function measure(times: Figures, steps: Record<"create" | "start" | "delete", () => Promise<void> | void>) {
  const from = performance.now();
  for (const step of ["create", "start", "delete"] as const) {
    const before = performance.now();
    await steps[step]();
    times[step].push(performance.now() - before);
  }
  times.cycle.push(performance.now() - from);
}

/** A command line's cycle; `delete -f`, for the process may not be reaped yet. */
async function command(times: Figures, argv: readonly string[], id: string): Promise<void> {
  const whole = [...argv, "--root", join(directory, `state-${times === all.crun ? "crun" : id.replace(/\d+$/, "")}`)];
  await measure(times, {
    create: () => must([...whole, "create", "-b", bundle, id]),
    start: () => must([...whole, "start", id]),
    delete: () => must([...whole, "delete", "-f", id]),
  });
  const before = performance.now();
  must([...whole, "run", "-b", bundle, id]);
  times.run.push(performance.now() - before);
}

/** A mount namespace without cgroup v2, for as long as this process: the command that runs another in it. */
function withoutUnified(): string[] {
  if (!existsSync(UNIFIED)) return [];
  const place = join(directory, "mounts");
  const pinned = join(place, "namespace");
  mkdirSync(place);
  writeFileSync(pinned, "");
  must(["mount", "--bind", "--make-private", place, place]);
  closers.push(async () => must(["umount", "-R", place]));
  must(["unshare", `--mount=${pinned}`, "umount", UNIFIED]);
  return ["nsenter", `--mount=${pinned}`];
}

const closers: (() => Promise<void>)[] = [];
const crunPrefix = [...withoutUnified(), "crun"];
const all = { "berth in process": figures(), "berth-runc": figures(), runc: figures(), crun: figures() };

async function inProcess(): Promise<(index: number) => Promise<void>> {
  const hand = await startHand({ bosun: join(checkout, ".build/native/bosun"), state: join(directory, "hand") });
  closers.push(() => hand.close());
  const host = await probeHost(hand);
  return async (index) => {
    const cgroup = { path: `/berth-bench-${process.pid}-${index}` };
    const monitor = join(directory, `monitor${index}`);
    mkdirSync(monitor);
    let link: Awaited<ReturnType<typeof connectMonitor>> | undefined;
    await measure(all["berth in process"], {
      create: async () => {
        const { spec, rootfs } = readBundle(bundle);
        const context = {
          id: `b${index}`,
          rootfs: { kind: "path", path: rootfs },
          cgroup,
          host,
          terminal: false,
        } as const;
        const { plan } = planContainer(spec, context);
        await hand.monitor({ dir: monitor, plan });
        link = await connectMonitor(monitor, plan);
      },
      start: async () => {
        await link?.start();
      },
      delete: async () => {
        await killCgroup(cgroup.path, host);
        await link?.exited;
        await hand.run(cgroupRemoval(cgroup.path, host));
        link?.close();
        rmSync(monitor, { recursive: true, force: true });
      },
    });
  };
}

try {
  const own = await inProcess();
  const peers = Object.entries({ "berth-runc": [BERTH_RUNC], runc: ["runc"], crun: crunPrefix } as const).filter(
    ([name]) => name === "berth-runc" || spawnSync(name, ["--version"]).status === 0,
  ) as ["berth-runc" | "runc" | "crun", readonly string[]][];
  // The first round warms caches and is not counted.
  for (let index = 0; index <= rounds; index++) {
    await own(index);
    for (const [name, argv] of peers) await command(all[name], argv, `bench-${name}-${process.pid}-${index}`);
    if (index === 0) for (const times of Object.values(all)) for (const list of Object.values(times)) list.length = 0;
  }
  report();
} finally {
  for (const close of closers) await close();
  rmSync(directory, { recursive: true, force: true });
}

function report(): void {
  const measured = Object.entries(all).filter(([, { cycle }]) => cycle.length > 0);
  const cell = (times: readonly number[]) => (times.length === 0 ? "-" : median(times).toFixed(1));
  const ratio = (times: readonly number[], to: readonly number[]) =>
    times.length === 0 || to.length === 0 ? "-" : (median(times) / median(to)).toFixed(2);
  const { runc, crun } = all;
  const rows = measured.map(([name, times]) => [
    name,
    ...[times.create, times.start, times.delete, times.cycle].map(cell),
    ratio(times.cycle, runc.cycle),
    ratio(times.cycle, crun.cycle),
    cell(times.run),
    ratio(times.run, runc.run),
    ratio(times.run, crun.run),
  ]);
  const columns = ["create", "start", "delete", "cycle", "of runc", "of crun", "run", "of runc", "of crun"];
  const heading = [`medians of ${rounds}, ms`, ...columns];
  process.stdout.write(`${table([heading, ...rows])}\n`);
  if (flags.json !== undefined) writeFileSync(flags.json, JSON.stringify(Object.fromEntries(measured)));
}
