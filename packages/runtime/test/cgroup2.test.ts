/** The same containers on a machine that has cgroup v2 alone: in a mount namespace where that is what /sys/fs/cgroup shows. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { Machine, whyNot } from "./support/machine.ts";

const why = await whyNot();
const TIMEOUT_MS = 120_000;

test("containers and attacks again, on cgroup v2 alone", why === undefined ? {} : { skip: why }, async (t) => {
  await using machine = await Machine.start();
  if (machine.host.cgroups.mode !== "hybrid")
    return t.skip("this machine's cgroups are not hybrid: nothing else to test");
  const script = `umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$0" "$@"`;
  const files = ["container", "volumes", "limits", "namespaces", "attacks"].map(
    (name) => new URL(`${name}.test.ts`, import.meta.url).pathname,
  );
  const argv = [
    "/usr/bin/unshare",
    "-m",
    "--propagation",
    "private",
    "/bin/sh",
    "-c",
    script,
    process.execPath,
    "--test",
    "--test-reporter=tap",
    ...files,
  ];
  const before = await cgroupMounts();
  const { status, stdout, stderr } = await machine.hand.spawn(
    { argv, env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" }, limit: 1 << 20 },
    { timeoutMs: TIMEOUT_MS },
  );
  const report = Buffer.from(stdout).toString();
  assert.equal(status, 0, `${report}\n${Buffer.from(stderr).toString()}`);
  assert.match(report, /^# fail 0$/m);
  assert.ok(Number(/^# pass (\d+)$/m.exec(report)?.[1]) > 30, report);
  assert.deepEqual(await cgroupMounts(), before, "the machine's own are as they were");
});

async function cgroupMounts(): Promise<string[]> {
  return (await readFile("/proc/self/mountinfo", "utf8"))
    .split("\n")
    .filter((line) => line.includes(" /sys/fs/cgroup"));
}
