/** What an ExecSync takes beside containerd's where cgroup v2 is all there is. Everything is slow here; their ratio is what counts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, runInGuest } from "./guest.ts";

const TIMEOUT_MS = 900_000;

test("ExecSync on cgroup v2 alone, beside Debian's containerd", { timeout: TIMEOUT_MS + 60_000 }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const { status, output } = await runInGuest({
    timeoutMs: TIMEOUT_MS,
    memoryMiB: 3072,
    command: `export PATH=/berth/node_modules/.bin:$PATH
modprobe -a overlay br_netfilter
exec bench/run exec`,
  });
  assert.equal(status, 0, output);
  t.diagnostic(output);
  assert.match(output, /^ExecSync .* yes$/m);
});
