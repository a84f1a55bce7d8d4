/** A request to a monitor that has just ended costs the shim the monitor's last word: what it has written on the disk counts then. */
import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { startShim, until, whyNoShim } from "./support/shim.ts";

const SIGWINCH = 28;

test("a container's exit code is told though its end crosses a request", { skip: whyNoShim }, async (t) => {
  const { id, directory, bundle, service } = await startShim(t, {
    id: "brief",
    script: "while [ ! -e /go ]; do sleep 0.02; done; exit 7",
    cgroupsPath: `/berth-test-shim-word-${process.pid}`,
  });
  await service.call("create", { id, bundle });
  await service.call("start", { id });
  const { shimPid } = await service.call("connect", { id });
  const [record = ""] = globSync(join(directory, "run/berth/*/record"));
  const monitor = /^monitor_pid (\d+)$/m.exec(readFileSync(record, "utf8"))?.[1];
  process.kill(shimPid, "SIGSTOP");
  try {
    // When the shim goes on it finds this first, which makes it write to nobody, and then what the monitor said last.
    const signalled = service.call("kill", { id, signal: SIGWINCH }).catch((error: unknown) => error);
    await new Promise((resolve) => setImmediate(resolve));
    writeFileSync(join(bundle, "rootfs/go"), "");
    await until("the monitor has ended", () => !existsSync(`/proc/${monitor}`));
    process.kill(shimPid, "SIGCONT");
    const refused = await signalled;
    assert.ok(refused instanceof TtrpcError && refused.code === CODE.notFound, String(refused));
  } finally {
    process.kill(shimPid, "SIGCONT");
  }
  assert.equal((await service.call("wait", { id })).exitStatus, 7);
  await service.call("delete", { id });
});
