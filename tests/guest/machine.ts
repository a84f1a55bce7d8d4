/** A virtual machine whose PID 1 is `bosun guest` and whose one device is the channel's port: for tests of its two ends alone. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, watch, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { run } from "../support/daemon.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
export const bosun = fileURLToPath(new URL("../../.build/native/bosun", import.meta.url));
const NEEDED = /^(virtio|virtio_ring|virtio_pci_modern_dev|virtio_pci_legacy_dev|virtio_pci)\.ko$/;
/** Loaded behind those; the others are there for tests to load. */
const CONSOLE = "kernel/drivers/char/virtio_console.ko";
export const VSOCK_MODULES = ["vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"].map(
  (name) => `kernel/net/vmw_vsock/${name}.ko`,
);

export interface Machine {
  readonly dir: string;
  /** The socket of `bosun relay`. */
  readonly relay: string;
  readonly qemu: ChildProcess;
  readonly relayProcess: ChildProcess;
  /** What the kernel and PID 1 have said. */
  console(): string;
}

interface Entry {
  readonly path: string;
  readonly mode: number;
  readonly data?: Uint8Array;
}

/** Enough of the "newc" format for an initramfs (Documentation/driver-api/early-userspace/buffer-format.rst). */
function cpio(entries: readonly Entry[]): Buffer {
  const parts = [...entries, { path: "TRAILER!!!", mode: 0, data: new Uint8Array() }].flatMap((entry, index) => {
    const { path, mode, data = new Uint8Array() } = entry;
    const numbers = [index + 1, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, path.length + 1, 0];
    const head = `070701${numbers.map((number) => number.toString(16).padStart(8, "0")).join("")}${path}\0`;
    const padded = (bytes: Uint8Array): Buffer => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
    return [padded(Buffer.from(head)), padded(data)];
  });
  return Buffer.concat(parts);
}

function initramfs(image: string): Buffer {
  const order = readFileSync(`${image}/modules/order`, "utf8").trim().split("\n");
  const modules = order.filter((name) => NEEDED.test(name));
  const root = `${image}/root.ext4`;
  const kernels = execFileSync("debugfs", ["-R", "ls -p /lib/modules", root], { encoding: "utf8", stdio: "pipe" });
  const version = /[^/\s]+-cloud-amd64/.exec(kernels)?.[0];
  const dir = mkdtempSync(join(tmpdir(), "berth-modules-"));
  try {
    const further = [CONSOLE, ...VSOCK_MODULES];
    for (const module of further)
      execFileSync("debugfs", ["-R", `dump /lib/modules/${version}/${module} ${dir}/${basename(module)}`, root], {
        stdio: "pipe",
      });
    return cpio([
      ...["bin", "dev", "proc", "sys", "etc", "etc/berth", "lib"].map((path) => ({ path, mode: 0o40755 })),
      { path: "bin/busybox", mode: 0o100755, data: readFileSync(`${image}/busybox`) },
      { path: "init", mode: 0o100755, data: readFileSync(bosun) },
      ...modules.map((name) => ({
        path: `lib/${name}`,
        mode: 0o100644,
        data: readFileSync(`${image}/modules/${name}`),
      })),
      ...further.map((module) => {
        const name = basename(module);
        return { path: `lib/${name}`, mode: 0o100644, data: readFileSync(join(dir, name)) };
      }),
      {
        path: "etc/berth/modules",
        mode: 0o100644,
        data: Buffer.from([...modules, basename(CONSOLE)].map((name) => `/lib/${name}\n`).join("")),
      },
    ]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Boots one, with a relay; both end with the test. Nothing is waited for: who connects through the relay waits for the guest. */
export async function bootMachine(t: TestContext): Promise<Machine> {
  const image = (await run([`${here}build`])).trim().split("\n").at(-1) ?? "";
  const dir = mkdtempSync(join(tmpdir(), "berth-machine-"));
  writeFileSync(`${dir}/initrd`, initramfs(image));
  const flags = [
    ["machine", "q35,accel=tcg"],
    ["cpu", "max,-pku"],
    ["m", "256M"],
    ["display", "none"],
    ["chardev", `file,id=console,path=${dir}/console`],
    ["serial", "chardev:console"],
    ["kernel", `${image}/vmlinuz`],
    ["initrd", `${dir}/initrd`],
    ["append", "console=ttyS0 quiet panic=1 reboot=k no_timer_check cgroup_no_v1=all random.trust_cpu=on"],
    ["device", "virtio-serial-pci"],
    ["chardev", `socket,id=agent,path=${dir}/agent.sock,server=on,wait=off`],
    ["device", "virtserialport,chardev=agent,name=berth.agent"],
  ].flatMap(([name, value]) => [`-${name}`, value ?? ""]);
  const argv = ["-nodefaults", "-no-user-config", "-no-reboot", ...flags];
  const qemu = spawn("qemu-system-x86_64", argv, { stdio: ["ignore", "inherit", "inherit"] });
  const children: ChildProcess[] = [qemu];
  t.after(async () => {
    await Promise.all(children.map(end));
    rmSync(dir, { recursive: true, force: true });
  });
  await appears(dir, "agent.sock");
  const relay = spawn(bosun, ["relay", "--channel", `${dir}/agent.sock`, "--listen", `${dir}/relay.sock`], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(relay);
  await once(relay.stdout, "data");
  const said = (): string => (existsSync(`${dir}/console`) ? readFileSync(`${dir}/console`, "utf8") : "");
  return { dir, relay: `${dir}/relay.sock`, qemu, relayProcess: relay, console: said };
}

async function appears(dir: string, name: string): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const watcher = watch(dir, () => existsSync(`${dir}/${name}`) && resolve());
  if (existsSync(`${dir}/${name}`)) resolve();
  await promise;
  watcher.close();
}

/** Resolves once it has ended. */
function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  const { promise, resolve } = Promise.withResolvers<void>();
  child.once("exit", () => resolve());
  child.kill("SIGKILL");
  return promise;
}
