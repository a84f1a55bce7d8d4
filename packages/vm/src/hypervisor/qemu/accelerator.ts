/**
 * Whether KVM works here: found out by booting a kernel. That /dev/kvm opens says little (a machine of a machine may offer it and run no
 * guest), so what counts is that the kernel speaks. The answer is kept for as long as this machine runs.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, open, readFile, rename, stat, writeFile } from "node:fs/promises";
import { OrderError, type Hand } from "@berth/kernel";

export interface Acceleration {
  readonly accelerator: "kvm" | "tcg";
  /** For a person: why it is not KVM. */
  readonly reason: string;
}

const KVM = "/dev/kvm";
/** A kernel under KVM speaks within a third of a second. */
const BOOT_MS = 8_000;
const HEAD = 1 << 16;
const SPOKEN = /Linux version /;

export async function findAccelerator(
  hand: Hand,
  program: string,
  kernel: string,
  cache: string,
): Promise<Acceleration> {
  if (!existsSync(KVM)) return { accelerator: "tcg", reason: `${KVM} is not there` };
  const file = `${cache}/accelerator-${await keyOf(program, kernel)}.json`;
  try {
    return JSON.parse(await readFile(file, "utf8")) as Acceleration;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" && !(error instanceof SyntaxError)) throw error;
  }
  const found = await tryKvm(hand, program, kernel);
  await mkdir(cache, { recursive: true, mode: 0o700 });
  await writeFile(`${file}.new`, JSON.stringify(found));
  await rename(`${file}.new`, file);
  return found;
}

/** Another boot of this machine, another QEMU or kernel is another question. */
async function keyOf(program: string, kernel: string): Promise<string> {
  const boot = await readFile("/proc/sys/kernel/random/boot_id", "utf8");
  const about = `${boot}\0${program}\0${(await stat(program)).mtimeMs}\0`;
  // Copies of one kernel are one.
  return createHash("sha256")
    .update(about)
    .update(await headOf(kernel))
    .digest("hex")
    .slice(0, 16);
}

/** With the version in it, and what the rest is found by. */
async function headOf(path: string): Promise<Buffer> {
  await using file = await open(path, "r");
  const { buffer, bytesRead } = await file.read(Buffer.alloc(HEAD), 0, HEAD, 0);
  return buffer.subarray(0, bytesRead);
}

/** Without a root file system the kernel panics, which is its end; by then it has spoken. */
async function tryKvm(hand: Hand, program: string, kernel: string): Promise<Acceleration> {
  const flags =
    "-nodefaults -no-user-config -no-reboot -display none -m 128M -serial stdio -machine q35,accel=kvm -cpu host";
  const argv = [program, ...flags.split(" "), "-kernel", kernel, "-append", "console=ttyS0 panic=-1"];
  try {
    const { stdout, stderr, status } = await hand.spawn({ argv, env: {} }, { timeoutMs: BOOT_MS });
    if (SPOKEN.test(Buffer.from(stdout).toString("latin1"))) return { accelerator: "kvm", reason: "" };
    const said = Buffer.from(stderr).toString().trim().split("\n").at(-1) ?? "";
    return {
      accelerator: "tcg",
      reason: `a kernel did not boot under KVM (status ${status}${said === "" ? "" : `: ${said}`})`,
    };
  } catch (error) {
    if (!(error instanceof OrderError)) throw error;
    return {
      accelerator: "tcg",
      reason: `a kernel under KVM said nothing within ${BOOT_MS / 1000} s, though ${KVM} opens`,
    };
  }
}
