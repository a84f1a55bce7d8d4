/** Containers on a kernel of 2022 with cgroup v2 alone: what this host, with its v1 hierarchies, cannot show. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, runInGuest } from "./guest.ts";

const FILES = ["container", "limits", "namespaces", "volumes"].map((name) => `packages/runtime/test/${name}.test.ts`);

test("the runtime's tests pass in a guest with Linux 6.1 and cgroup v2 alone", { timeout: 900_000 }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const { status, output } = await runInGuest({
    cgroups: "v2",
    timeoutMs: 840_000,
    command: `export PATH=/berth/node_modules/.bin:$PATH
test "$(cat /sys/fs/cgroup/cgroup.controllers)" || exit 9
exec node --disable-warning=ExperimentalWarning --test --test-reporter=tap --test-concurrency=1 ${FILES.join(" ")}`,
  });
  assert.equal(status, 0, output);
  assert.match(output, /^# fail 0$/m);
  assert.ok(Number(/^# pass (\d+)$/m.exec(output)?.[1]) > 10, output);
});
