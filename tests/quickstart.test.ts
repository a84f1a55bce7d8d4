/** ./quickstart as a newcomer runs it, in directories of the test's own. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

const checkout = join(import.meta.dirname, "..");

function quickstart(dir: string, ...args: string[]): Promise<{ status: number | null; output: string }> {
  const child = spawn(join(checkout, "quickstart"), args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, BERTH_DIR: dir },
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  // "exit", not "close": the daemon that it leaves running must not hold anything of ours open, but a failure should not hang here.
  return new Promise((resolve) => child.once("exit", (status) => setImmediate(() => resolve({ status, output }))));
}

/** Processes and mounts that name the directory. */
function left(dir: string): string[] {
  const processes = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
        return command.includes(dir) ? [command] : [];
      } catch (error) {
        // It ended meanwhile.
        if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return [];
        throw error;
      }
    });
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(dir));
  return [...processes, ...mounts];
}

test("the quickstart runs a pod, runs again, and removes everything", async (t) => {
  if (process.getuid?.() !== 0) return t.skip("needs root");
  const dir = mkdtempSync(join(tmpdir(), "berth-quickstart-"));
  try {
    const first = await quickstart(dir);
    assert.equal(first.status, 0, first.output);
    assert.match(first.output, /its log +hello from a pod, on quickstart\n/);
    const ip = /its IP +(\d+\.\d+\.\d+\.\d+)\n/.exec(first.output)?.[1];
    assert(ip !== undefined && first.output.includes(`inet ${ip}/`), first.output);
    assert.match(first.output, /What to try next:/);
    const second = await quickstart(dir);
    assert.equal(second.status, 0, second.output);
    assert.match(second.output, /already running/);
  } finally {
    const removed = await quickstart(dir, "--remove", "-y");
    assert.equal(removed.status, 0, removed.output);
    assert.deepEqual(left(dir), []);
    rmSync(dir, { recursive: true });
  }
});
