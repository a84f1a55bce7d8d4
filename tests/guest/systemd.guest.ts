/** A guest with systemd as PID 1: berthd as its unit, its cgroup driver, AppArmor, and what a reboot leaves. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, type GuestRun, runInGuest } from "./guest.ts";

const TIMEOUT_MS = 1_700_000;

async function inGuest(command: string, more: Partial<GuestRun> = {}): Promise<string> {
  const { status, output } = await runInGuest({
    cgroups: "v2",
    init: "systemd",
    memoryMiB: 3072,
    timeoutMs: TIMEOUT_MS,
    ...more,
    command: `export PATH=/berth/node_modules/.bin:/berth/bin:$PATH\n${command}`,
  });
  assert.equal(status, 0, output);
  return output;
}

/** A test file of berthd's, not skipped as a whole. */
function passes(what: string, file: string, least: number): void {
  test(what, { timeout: TIMEOUT_MS + 100_000 }, async (t) => {
    const problem = guestProblem();
    if (problem !== undefined) return t.skip(problem);
    const output = await inGuest(`exec node --disable-warning=ExperimentalWarning --test-reporter=tap ${file}`);
    assert.match(output, /^# fail 0$/m);
    assert.ok(Number(/^# pass (\d+)$/m.exec(output)?.[1]) >= least, output);
  });
}

passes("berthd's life-cycle tests under systemd", "tests/lifecycle.test.ts", 10);
passes("what containers see under systemd", "tests/inside.test.ts", 5);
passes("limits and statistics on cgroup v2", "tests/resources.test.ts", 4);
passes("scopes and slices of systemd's", "tests/systemd-node.test.ts", 8);
passes("SystemdCgroup of containerd's shim", "packages/shim/test/systemd.test.ts", 2);
passes("the unit: readiness, watchdog, restart, reload", "tests/unit.test.ts", 7);
passes("AppArmor's profiles", "tests/apparmor.test.ts", 4);

/** Pods end with the machine; their records, images and logs are on its disk, and the unit is enabled. */
const REBOOT = `
look() {
  systemctl is-active berthd
  berth ps -a --json | node -e 'for (const c of JSON.parse(require("fs").readFileSync(0))) console.log(c.name, c.state)'
  find /sys/fs/cgroup -name 'cri-containerd-*' | sed 's/^/left: /'
  find /run/berth/containers /run/netns -mindepth 1 | sed 's/^/left: /'
  grep -c berth0 /proc/net/dev | sed 's/^/bridges: /'
}
if [ ! -e /var/lib/booted ]; then
  set -e
  mkdir -p /etc/berth
  berthd config default | sed 's/SystemdCgroup = false/SystemdCgroup = true/' >/etc/berth/config.toml
  sed 's|^ExecStart=.*|ExecStart=/berth/bin/berthd|' packages/daemon/berthd.service >/etc/systemd/system/berthd.service
  systemctl daemon-reload
  systemctl enable --now berthd
  node --disable-warning=ExperimentalWarning scripts/busybox-image.ts /tmp/busybox.tar localhost/busybox:latest
  berth load -q -i /tmp/busybox.tar
  berth run -d --name before localhost/busybox sh -c 'echo said; sleep 100000'
  touch /var/lib/booted
  sync
  systemctl reboot
  sleep 1000
fi
systemctl start berthd
echo after the reboot
look
berth logs before
berth rm before
berth run --rm --name after localhost/busybox echo runs again
look
`;

test("a reboot leaves records and logs, and nothing else", { timeout: TIMEOUT_MS }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const output = await inGuest(REBOOT, { reboots: true, timeoutMs: 600_000 });
  const after = output.slice(output.indexOf("after the reboot"));
  assert.match(after, /^active\nbefore exited\n/m);
  assert.doesNotMatch(after, /^left: /m);
  assert.match(after, /^said\n/m);
  assert.match(after, /^runs again\nactive\n/m, "nothing is listed any more");
});
