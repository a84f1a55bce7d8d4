/**
 * A machine for what this host may lack: Debian's kernel under QEMU's TCG, as root, with pure cgroup v2 or v1, with or
 * without systemd as PID 1. The checkout is at /berth in it, writable; what is written there is gone with the guest.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, watch, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { run } from "../support/daemon.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const checkout = fileURLToPath(new URL("../..", import.meta.url));
const VIRTIOFSD = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"].find(existsSync);

export interface GuestRun {
  /** Run by sh(1) in /berth, as root. */
  readonly command: string;
  /** v2: cgroup_no_v1=all. v1: every controller in a hierarchy of its own. Default: v2. */
  readonly cgroups?: "v1" | "v2";
  /** PID 1. Default: none, a few lines of shell. */
  readonly init?: "plain" | "systemd";
  /** Further words of the kernel's command line. */
  readonly kernel?: string;
  /** A reboot starts the command again, on the disk as it was; otherwise it ends the guest. */
  readonly reboots?: boolean;
  /** Default: 2048. */
  readonly memoryMiB?: number;
  /** Default: five minutes. */
  readonly timeoutMs?: number;
}

export interface GuestResult {
  readonly status: number;
  /** Standard output and error of the command. */
  readonly output: string;
  /** What the kernel and PID 1 said. */
  readonly console: string;
}

/** Why no guest can be run here; undefined where one can. */
export function guestProblem(): string | undefined {
  if (process.arch !== "x64") return "guests are x86-64 machines";
  if (process.getuid?.() !== 0) return "building and sharing with a guest needs root";
  if (VIRTIOFSD === undefined) return "no virtiofsd: scripts/setup --test installs it";
  for (const program of ["qemu-system-x86_64", "debootstrap"])
    if (spawnSync("sh", ["-c", `command -v ${program}`]).status !== 0)
      return `no ${program}: scripts/setup --test installs it`;
  return undefined;
}

/** Boots a guest, runs the command in it and switches it off. Rejects when the guest ends without an exit status. */
export async function runInGuest(options: GuestRun): Promise<GuestResult> {
  const image = (await run([`${here}build`])).trim().split("\n").at(-1) ?? "";
  const dir = mkdtempSync(`${tmpdir()}/berth-guest-`);
  const children: ChildProcess[] = [];
  try {
    writeFileSync(`${dir}/command`, options.command);
    for (const [tag, source] of [
      ["run", dir],
      ["checkout", checkout],
    ] as const)
      children.push(await share(tag, source, dir));
    const memory = `${options.memoryMiB ?? 2048}M`;
    const argv = [
      "-nodefaults",
      "-no-user-config",
      ...(options.reboots === true ? [] : ["-no-reboot"]),
      ...flags([
        ["machine", "q35,accel=tcg,memory-backend=mem"],
        // Without protection keys: V8 takes them for its code, and under TCG it finds them broken now and then.
        ["cpu", "max,-pku"],
        ["smp", "2"],
        ["m", memory],
        ["object", `memory-backend-memfd,id=mem,size=${memory},share=on`],
        ["display", "none"],
        ["chardev", `file,id=console,path=${dir}/console`],
        ["serial", "chardev:console"],
        ["kernel", `${image}/vmlinuz`],
        ["initrd", `${image}/initrd`],
        ["append", kernelArguments(options)],
        ["drive", `file=${image}/root.ext4,format=raw,if=virtio,snapshot=on`],
        ["chardev", `socket,id=run,path=${dir}/run.sock`],
        ["device", "vhost-user-fs-pci,chardev=run,tag=run"],
        ["chardev", `socket,id=checkout,path=${dir}/checkout.sock`],
        ["device", "vhost-user-fs-pci,chardev=checkout,tag=checkout"],
      ]),
    ];
    const said = await finished(argv, children, options.timeoutMs ?? 300_000);
    const text = (name: string): string => (existsSync(`${dir}/${name}`) ? readFileSync(`${dir}/${name}`, "utf8") : "");
    const status = text("status").trim();
    if (status === "")
      throw new Error(
        `the guest ended without an exit status\n${said}\nits command said:\n${text("output")}\nits console:\n${text("console").slice(-4000)}`,
      );
    return { status: Number(status), output: text("output"), console: text("console") };
  } finally {
    await Promise.all(children.map(end));
    rmSync(dir, { recursive: true, force: true });
  }
}

const flags = (pairs: readonly (readonly [name: string, value: string])[]): string[] =>
  pairs.flatMap(([name, value]) => [`-${name}`, value]);

function kernelArguments(options: GuestRun): string {
  const { cgroups = "v2", init = "plain" } = options;
  const unified =
    cgroups === "v2" ? "cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1" : "systemd.unified_cgroup_hierarchy=0";
  // The kernel counts its timer's ticks within a few of the host's milliseconds, and panics where a loaded host delivers none.
  return `console=ttyS0 panic=-1 quiet no_timer_check random.trust_cpu=on berth.init=${init} berth.cgroups=${cgroups} ${unified} ${options.kernel ?? ""}`;
}

/** A folder of the host, offered over vhost-user at `<dir>/<tag>.sock`. */
async function share(tag: string, source: string, dir: string): Promise<ChildProcess> {
  const socket = `${dir}/${tag}.sock`;
  const flags = ["-o", `source=${source}`, "-o", "sandbox=chroot", "-o", "cache=auto"];
  const child = spawn(VIRTIOFSD ?? "virtiofsd", [`--socket-path=${socket}`, ...flags], { stdio: "ignore" });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const watcher = watch(dir, () => existsSync(socket) && resolve());
  child.once("error", reject);
  child.once("exit", (code) => reject(new Error(`virtiofsd for ${source} ended with ${code}`)));
  if (existsSync(socket)) resolve();
  try {
    await promise;
  } finally {
    watcher.close();
  }
  return child;
}

async function finished(argv: readonly string[], children: ChildProcess[], timeoutMs: number): Promise<string> {
  const qemu = spawn("qemu-system-x86_64", argv, {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: timeoutMs,
    killSignal: "SIGKILL",
  });
  children.push(qemu);
  let said = "";
  for (const stream of [qemu.stdout, qemu.stderr]) stream.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  qemu.once("error", reject);
  qemu.once("close", (code, signal) =>
    resolve(`qemu ended with ${signal === "SIGKILL" ? `its time-out of ${timeoutMs} ms` : code}: ${said}`),
  );
  return promise;
}

function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  const { promise, resolve } = Promise.withResolvers<void>();
  child.once("exit", () => resolve());
  child.kill("SIGKILL");
  return promise;
}
