/** A container is checkpointed and restored by berth-runc on Linux 6.1, with nothing but the commands: the short form of checkpoint.guest.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestProblem, runInGuest } from "./guest.ts";

const spec = {
  ociVersion: "1.3.0",
  process: {
    user: { uid: 0, gid: 0 },
    args: ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.2; done"],
    env: ["PATH=/bin"],
    cwd: "/",
  },
  root: { path: "rootfs" },
  mounts: [
    { destination: "/proc", type: "proc", source: "proc" },
    { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
  ],
  linux: {
    namespaces: ["pid", "mount", "ipc", "uts", "network"].map((type) => ({ type })),
    maskedPaths: ["/proc/kcore"],
  },
};

const COMMAND = `set -e
export PATH=/berth/bin:/berth/node_modules/.bin:$PATH
mkdir -p /tmp/bundle/rootfs/bin
cd /tmp/bundle
cp /bin/busybox rootfs/bin/sh
ln -s sh rootfs/bin/sleep
cat >config.json <<'END'
${JSON.stringify(spec)}
END
said() { echo "$1 $(cat rootfs/count)"; }
berth-runc run -d one </dev/null >/dev/null 2>&1
sleep 1
berth-runc checkpoint --image-path /tmp/images --work-path /tmp/work one
said stopped
test ! -e /run/runc/one
test ! -e /sys/fs/cgroup/one
berth-runc restore -d --image-path /tmp/images --work-path /tmp/work one </dev/null >/dev/null 2>&1
sleep 1
said resumed
berth-runc delete -f one
test ! -e /run/runc/one
test ! -e /sys/fs/cgroup/one
`;

test("a container goes on where it was checkpointed", { timeout: 300_000 }, async (t) => {
  const problem = guestProblem();
  if (problem !== undefined) return t.skip(problem);
  const { status, output } = await runInGuest({ command: COMMAND, timeoutMs: 280_000 });
  assert.equal(status, 0, output);
  const [stopped, resumed] = ["stopped", "resumed"].map((word) =>
    Number(new RegExp(`^${word} (\\d+)$`, "m").exec(output)?.[1]),
  );
  assert.ok(stopped !== undefined && resumed !== undefined && stopped > 0 && resumed > stopped, output);
});
