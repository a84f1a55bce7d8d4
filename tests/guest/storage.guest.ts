/** What layers can be given where the kernel has it, which this host's may not: fs-verity, dm-verity, project quotas of ext4 and XFS. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, runInGuest } from "./guest.ts";

// V8's optimizing compilers and TCG's several threads do not agree: one process in four dies of a failed check of V8's.
const NODE = "node --disable-warning=ExperimentalWarning --no-maglev --no-turbofan --test-reporter=tap";

for (const file of ["seals", "limits"]) {
  test(`${file} of layers work on Linux 6.1`, { timeout: 600_000 }, async (t) => {
    const problem = guestProblem();
    if (problem !== undefined) return t.skip(problem);
    const { status, output } = await runInGuest({
      timeoutMs: 580_000,
      command: `export PATH=/berth/node_modules/.bin:$PATH
modprobe -a loop dm-mod
exec ${NODE} packages/image/test/${file}.test.ts`,
    });
    assert.equal(status, 0, output);
    assert.doesNotMatch(output, / # SKIP/);
    assert.ok(Number(/^# pass (\d+)$/m.exec(output)?.[1]) >= 7, output);
  });
}

test("berthd limits what containers write on Linux 6.1", { timeout: 600_000 }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const { status, output } = await runInGuest({
    timeoutMs: 580_000,
    // The guest's root file system is mounted with prjquota; its /tmp is a tmpfs.
    command: `export PATH=/berth/node_modules/.bin:$PATH TMPDIR=/var/tmp
modprobe -a loop
${NODE} tests/storage-size.test.ts || exit
! grep -q prjquota /guest/run/output`,
  });
  assert.equal(status, 0, output);
});
