/** What the runtime specification offers, on a kernel of 2022: cgroup v2 alone, systemd with its scopes and AppArmor, SELinux. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, runInGuest, type GuestRun } from "./guest.ts";

const TIMEOUT_MS = 1_500_000;

async function passes(
  files: readonly string[],
  options: Omit<GuestRun, "command">,
  least: number,
  before = "",
): Promise<void> {
  const { status, output } = await runInGuest({
    ...options,
    timeoutMs: TIMEOUT_MS,
    command: `export PATH=/berth/node_modules/.bin:$PATH
${before}
exec node --disable-warning=ExperimentalWarning --test --test-reporter=tap --test-concurrency=1 ${files.join(" ")}`,
  });
  assert.equal(status, 0, output);
  assert.match(output, /^# fail 0$/m);
  assert.ok(Number(/^# pass (\d+)$/m.exec(output)?.[1]) >= least, output);
}

const tests = (...names: string[]) => names.map((name) => `packages/runtime/test/${name}.test.ts`);

test("features, hooks and attacks on cgroup v2 alone", { timeout: TIMEOUT_MS }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  await passes(tests("features", "hooks", "attacks", "failures"), { cgroups: "v2" }, 40);
});

test("systemd: scopes, their limits and their end; AppArmor", { timeout: TIMEOUT_MS }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  await passes(tests("systemd", "labels"), { cgroups: "v2", init: "systemd" }, 5);
});

/** The least that is a policy, and that Debian's own has for containers; what it does not allow is only noted (enforcing=0). */
const LOAD_POLICY = `mount -t selinuxfs selinuxfs /sys/fs/selinux
secilc -o /run/policy -f /dev/null tests/guest/selinux.cil && cat /run/policy >/sys/fs/selinux/load || exit 9`;

test("SELinux: labels of processes and of file systems", { timeout: TIMEOUT_MS }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  await passes(tests("labels"), { cgroups: "v2", kernel: "security=selinux selinux=1 enforcing=0" }, 1, LOAD_POLICY);
});
