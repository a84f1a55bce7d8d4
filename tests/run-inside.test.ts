/** What `berth run` gives a container without a word: the engines' default profile and paths, looked at from inside. Needs root. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { IMAGE, TestDaemon, checkout, run } from "./support/daemon.ts";

test("berth run: the default seccomp profile, masked and read-only paths, a limit of processes; none of it when privileged", async () => {
  await using daemon = await TestDaemon.start();
  const berth = (flags: readonly string[], script: string): Promise<string> =>
    run([`${checkout}/bin/berth`, "--address", daemon.socket, "run", "--rm", ...flags, IMAGE, "/bin/sh", "-c", script]);
  const plain = await berth(
    ["--pids-limit", "64"],
    [
      "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status",
      "echo kcore $(head -c 1 /proc/kcore | wc -c)",
      "echo timer_list $(head -c 1 /proc/timer_list 2>/dev/null | wc -c)",
      "echo firmware $(ls /sys/firmware | wc -l)",
      "echo 1 > /proc/sys/kernel/shm_rmid_forced || echo sys is read-only",
      "echo h > /proc/sysrq-trigger || echo sysrq is read-only",
      "unshare -U true || echo no user namespaces",
      "mount -t tmpfs none /tmp 2>/dev/null || echo no mounts",
    ].join("\n"),
  );
  assert.match(plain, /^Seccomp:\s+2$/m);
  for (const line of [
    "kcore 0",
    "timer_list 0",
    "firmware 0",
    "sys is read-only",
    "sysrq is read-only",
    "no user namespaces",
    "no mounts",
  ])
    assert.match(plain, new RegExp(`^${line}$`, "m"), plain);
  await assert.rejects(berth(["--pids-limit", "5"], "for i in $(seq 20); do sleep 1 & done; wait"), /fork|Resource/);
  assert.match(
    await berth(["--security-opt", "seccomp=unconfined"], "grep '^Seccomp:' /proc/self/status"),
    /^Seccomp:\s+0$/m,
  );
  const privileged = await berth(
    ["--privileged"],
    "grep '^Seccomp:' /proc/self/status; mount -t tmpfs none /tmp && echo mounts",
  );
  assert.match(privileged, /^Seccomp:\s+0$/m);
  assert.match(privileged, /^mounts$/m);
});
