/** What a command asks of this node, through a bosun of its own that ends with it. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { type Hand, OrderError, startHand } from "@berth/kernel";

/** The binary of this checkout. */
export const BOSUN = join(import.meta.dirname, "../../../../.build/native/bosun");

export async function withHand<T>(work: (hand: Hand) => Promise<T>): Promise<T> {
  const state = await mkdtemp(join(tmpdir(), "berth-vm-"));
  try {
    const hand = await startHand({ bosun: BOSUN, state });
    try {
      return await work(hand);
    } finally {
      await hand.close();
    }
  } finally {
    await rm(state, { recursive: true, force: true });
  }
}

/** What a program says of its version, "" where it says nothing. */
export async function versionOf(hand: Hand, program: string): Promise<string> {
  try {
    const { stdout } = await hand.spawn(
      { argv: [program, "--version"], env: { PATH: "/usr/bin:/bin" } },
      { timeoutMs: 10_000 },
    );
    return Buffer.from(stdout).toString().trim();
  } catch (error) {
    if (error instanceof OrderError) return "";
    throw error;
  }
}

export interface NodeFacts {
  readonly kernel: string;
  readonly architecture: string;
  readonly distribution: { readonly name: string; readonly version: string };
  readonly cpu: { readonly vendor: string; readonly model: string };
}

export async function nodeFacts(): Promise<NodeFacts> {
  const [osRelease, cpuInfo] = await Promise.all([textOf("/etc/os-release"), textOf("/proc/cpuinfo")]);
  const field = (name: string): string => new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(cpuInfo)?.[1] ?? "";
  const named = (name: string): string => new RegExp(`^${name}="?([^"\n]*)"?$`, "m").exec(osRelease)?.[1] ?? "";
  return {
    kernel: release(),
    architecture: process.arch === "x64" ? "amd64" : process.arch,
    distribution: { name: named("NAME"), version: named("VERSION_ID") },
    cpu: { vendor: field("vendor_id"), model: field("model name") },
  };
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}
