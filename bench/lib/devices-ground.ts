/** What the bench of devices stands on: a driver's files, an NVML of eight GPUs, CDI files, and a container's root with the driver in it. */
import {
  copyFileSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type CdiSpec, parseCdiSpec } from "@berth/cdi";
import { makeDriverRoot, makeNode } from "@berth/gpu/testing/driver";
import { run } from "./process.ts";

export const checkout = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
export const HOOK = `${checkout}/.build/native/cdi-hook`;
const GPUS = 8;
const FILES = 100;
const DEVICES = 16;
/** A CUDA image has about so many libraries, and links to them, in the linker's directories. */
const LIBRARIES = 300;
const MAX_LIBRARY = 2 ** 20;

export interface Ground {
  readonly dir: string;
  readonly driver: string;
  /** With FAKE_NVML. */
  readonly env: NodeJS.ProcessEnv;
  /** A hundred files of sixteen devices. */
  readonly specs: string;
  /** One of these files alone. */
  readonly oneSpec: string;
  /** NVIDIA's specification of the made-up driver. */
  readonly nvidia: CdiSpec;
  /** A container's root, with the driver's libraries where the mounts would bring them, and how many others. */
  readonly rootfs: string;
  readonly libraries: number;
}

export async function makeGround(): Promise<Ground> {
  const dir = mkdtempSync(join(tmpdir(), "berth-bench-devices-"));
  const [driver, specs, rootfs] = ["driver", "specs", "rootfs"].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  makeDriverRoot(driver);
  for (let index = 2; index < GPUS; index++) makeNode(driver, `nvidia${index}`, "666", 195, 10 + index);
  const script = join(dir, "nvml.txt");
  const gpus = Array.from({ length: GPUS }, (_, index) => `gpu GPU-${index} ${index} 00000000:0${index}:00.0 0 A100\n`);
  writeFileSync(script, `driver 525.147.05\n${gpus.join("")}`);
  const env = { ...process.env, FAKE_NVML: script };
  mkdirSync(specs);
  for (let file = 0; file < FILES; file++) writeFileSync(join(specs, `f${file}.json`), JSON.stringify(mockSpec(file)));
  const oneSpec = join(dir, "one");
  mkdirSync(oneSpec);
  copyFileSync(join(specs, "f1.json"), join(oneSpec, "f1.json"));
  const flags = ["--driver-root", driver, "--nvidia-cdi-hook-path", HOOK, "--quiet"];
  const nvidia = parseCdiSpec(await run([`${checkout}/bin/berth-ctk`, "cdi", "generate", ...flags], { env }));
  return { dir, driver, env, specs, oneSpec, nvidia, rootfs, libraries: makeRoot(rootfs, nvidia) };
}

function mockSpec(file: number): CdiSpec {
  const devices = Array.from({ length: DEVICES }, (_, index) => ({
    name: `d${index}`,
    containerEdits: {
      env: [`DEVICE_${index}=1`],
      deviceNodes: [{ path: `/dev/mock${index}`, hostPath: "/dev/null", permissions: "rw" }],
      mounts: [{ hostPath: "/etc/hostname", containerPath: `/mock/${index}`, options: ["ro", "bind"] }],
    },
  }));
  return { cdiVersion: "0.5.0", kind: `v${file}.com/gpu`, devices, containerEdits: { env: ["ALL=1"] } };
}

function makeRoot(rootfs: string, { containerEdits }: CdiSpec): number {
  for (const dir of ["etc", "dev", "proc", "tmp", "usr/lib/x86_64-linux-gnu"])
    mkdirSync(join(rootfs, dir), { recursive: true });
  for (const { hostPath, containerPath } of containerEdits?.mounts ?? []) {
    mkdirSync(join(rootfs, dirname(containerPath)), { recursive: true });
    copyFileSync(hostPath, join(rootfs, containerPath));
  }
  const from = process.arch === "x64" ? "/usr/lib/x86_64-linux-gnu" : "/usr/lib/aarch64-linux-gnu";
  const names = readdirSync(from)
    .filter((name) => /\.so(\.|$)/.test(name) && !/nvidia|cuda|GLX|vdpau/.test(name) && isSmall(join(from, name)))
    .slice(0, LIBRARIES);
  for (const name of names) {
    const to = join(rootfs, "usr/lib/x86_64-linux-gnu", name);
    if (lstatSync(join(from, name)).isSymbolicLink()) symlinkSync(readlinkSync(join(from, name)), to);
    else copyFileSync(join(from, name), to);
  }
  return names.length;
}

/** Links are followed. */
function isSmall(path: string): boolean {
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats?.isFile() === true && stats.size < MAX_LIBRARY;
}
