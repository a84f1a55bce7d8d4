/** A real hand for the tests that need one. */
import { access, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { startHand, type Hand } from "../../src/index.ts";

export const BOSUN = new URL("../../../../.build/native/bosun", import.meta.url).pathname;

/** False, and the test skipped, where no bosun can run. */
export async function canServe(t: TestContext): Promise<boolean> {
  const why =
    process.getuid?.() !== 0
      ? "needs root"
      : await access(BOSUN).then(
          () => undefined,
          () => "bosun is not built (packages/native/build)",
        );
  if (why !== undefined) t.skip(why);
  return why === undefined;
}

export class Bench implements AsyncDisposable {
  readonly directory: string;
  readonly hand: Hand;
  readonly lines: string[];

  private constructor(directory: string, hand: Hand, lines: string[]) {
    this.directory = directory;
    this.hand = hand;
    this.lines = lines;
  }

  /** `below`: further directories, for a long path. */
  static async start(below = ""): Promise<Bench> {
    const directory = await mkdtemp(join(tmpdir(), "berth-kernel-"));
    const lines: string[] = [];
    const hand = await startHand({
      bosun: BOSUN,
      state: join(directory, below, "state"),
      log: (line) => lines.push(line),
    });
    return new Bench(directory, hand, lines);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.hand.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}
