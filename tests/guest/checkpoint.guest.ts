/** Checkpoint and restore on a kernel that Debian's CRIU works on: berth-runc's, with each of its flags, and the CRI's. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, runInGuest, type GuestRun } from "./guest.ts";

const TIMEOUT_MS = 1_800_000;

async function passes(file: string, options: Omit<GuestRun, "command">, least: number): Promise<void> {
  const { status, output } = await runInGuest({
    memoryMiB: 3072,
    ...options,
    timeoutMs: TIMEOUT_MS,
    command: `export PATH=/berth/node_modules/.bin:$PATH
criu check || exit 9
exec node --disable-warning=ExperimentalWarning --test --test-reporter=tap --test-concurrency=1 ${file}`,
  });
  assert.equal(status, 0, output);
  assert.match(output, /^# fail 0$/m);
  assert.ok(Number(/^# pass (\d+)$/m.exec(output)?.[1]) >= least, output);
}

for (const cgroups of ["v2", "v1"] as const)
  test(`berth-runc checkpoint and restore, cgroup ${cgroups}`, { timeout: TIMEOUT_MS }, async (t) => {
    const problem = guestProblem();
    if (problem !== undefined) return t.skip(problem);
    await passes("packages/runtime/test/checkpoint.test.ts", { cgroups }, 5);
  });

test("each flag of checkpoint and restore", { timeout: TIMEOUT_MS }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  await passes("packages/runtime/test/checkpoint-flags.test.ts", { cgroups: "v2" }, 13);
});

test("CheckpointContainer, and containers made of checkpoints", { timeout: TIMEOUT_MS }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  await passes("tests/checkpoint.test.ts", { cgroups: "v2" }, 6);
});

for (const cgroups of ["v2", "v1"] as const)
  test(`Checkpoint by containerd's shim, cgroup ${cgroups}`, { timeout: TIMEOUT_MS }, async (t) => {
    const problem = guestProblem();
    if (problem !== undefined) return t.skip(problem);
    await passes("packages/shim/test/checkpoint.test.ts", { cgroups }, 1);
  });
