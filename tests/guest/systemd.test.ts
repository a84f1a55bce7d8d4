/** Of the tests for a node with systemd (systemd.guest.ts), what fits into every run: a scope's life, and its devices over a reload. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, runInGuest } from "./guest.ts";

test("containers are systemd's scopes in a guest with systemd and cgroup v2", { timeout: 900_000 }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const { status, output } = await runInGuest({
    cgroups: "v2",
    init: "systemd",
    timeoutMs: 840_000,
    command: `export PATH=/berth/node_modules/.bin:$PATH
exec node --disable-warning=ExperimentalWarning --test-reporter=tap --test-name-pattern='limits are the unit' --test-name-pattern='devices stay open' tests/systemd-node.test.ts`,
  });
  assert.equal(status, 0, output);
  assert.match(output, /^# pass 2\n# fail 0$/m);
});
