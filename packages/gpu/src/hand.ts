/** bosun for a short command: started for it, and ended with it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Hand, startHand } from "@berth/kernel";

const BOSUN = new URL("../../../.build/native/bosun", import.meta.url).pathname;

export async function withHand<T>(use: (hand: Hand) => Promise<T>): Promise<T> {
  const state = mkdtempSync(join(tmpdir(), "berth-gpu-"));
  try {
    const hand = await startHand({ bosun: BOSUN, state });
    try {
      return await use(hand);
    } finally {
      await hand.close();
    }
  } finally {
    rmSync(state, { recursive: true, force: true });
  }
}

/** What the program writes. Rejects with Error naming the program, where it cannot be started or does not end well. */
export async function outputOf(hand: Hand, argv: readonly string[]): Promise<string> {
  const { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" } = process.env;
  const { status, stdout, stderr } = await hand.spawn({ argv, env: { PATH } });
  if (status !== 0)
    throw new Error(`${argv.join(" ")}: ${Buffer.from(stderr).toString("utf8").trim() || `exit status ${status}`}`);
  return Buffer.from(stdout).toString("utf8");
}
