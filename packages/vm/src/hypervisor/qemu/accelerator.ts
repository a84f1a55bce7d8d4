/**
 * Whether KVM works here: found out by booting a kernel. That /dev/kvm opens says little (a machine of a machine may offer it and run no
 * guest), so what counts is that the kernel speaks. The answer is kept for as long as this machine runs.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { OrderError, type Hand } from "@berth/kernel";

export interface Acceleration {
  readonly accelerator: "kvm" | "tcg";
  /** For a person: why it is not KVM. */
  readonly reason: string;
}

const KVM = "/dev/kvm";
/** A kernel under KVM speaks within a third of a second. */
const BOOT_MS = 8_000;
const SPOKEN = /Linux version /;

export async function findAccelerator(
  hand: Hand,
  program: string,
  kernel: string,
  cache: string,
): Promise<Acceleration> {
  if (!existsSync(KVM)) return { accelerator: "tcg", reason: `${KVM} is not there` };
  const file = `${cache}/accelerator-${keyOf(program, kernel)}.json`;
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
function keyOf(program: string, kernel: string): string {
  const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  const parts = [boot, ...[program, kernel].map((path) => `${path}:${statSync(path).mtimeMs}`)];
  return createHash("sha256").update(parts.join("\0")).digest("hex").slice(0, 16);
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
