/** A guest with systemd as PID 1: berthd runs pods there, whoever manages the cgroups. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, runInGuest } from "./guest.ts";

test("berthd's life-cycle tests pass under systemd, Linux 6.1 and cgroup v2", { timeout: 1_800_000 }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const { status, output } = await runInGuest({
    cgroups: "v2",
    init: "systemd",
    memoryMiB: 3072,
    timeoutMs: 1_700_000,
    command: `export PATH=/berth/node_modules/.bin:$PATH
exec node --disable-warning=ExperimentalWarning --test --test-reporter=tap --test-concurrency=1 tests/lifecycle.test.ts tests/inside.test.ts`,
  });
  assert.equal(status, 0, output);
  assert.match(output, /^# fail 0$/m);
});
