/** Checkpoint by the Task API; where CRIU cannot work (as in tests/guest it can), that it is refused with its reason. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { runcOptions, taskTypes } from "@berth/spec/shim";
import { packJson, packMessage } from "../src/index.ts";
import { startShim, until, whyNoShim } from "./support/shim.ts";

const ID = "counter";
const CGROUP = `/berth-test-shim-${process.pid}`;
const SCRIPT = "i=0; while :; do i=$((i+1)); echo $i >/new; busybox mv /new /count; sleep 0.05; done";
/** So that what hangs is told. */
const WITHIN = { timeoutMs: 120_000 };
const criuWorks = spawnSync("criu", ["check"]).status === 0;

test("a container is checkpointed, ends, and goes on from there", { skip: whyNoShim }, async (t) => {
  const { directory, bundle, service } = await startShim(t, { id: ID, script: SCRIPT, cgroupsPath: CGROUP });
  await service.call("create", { id: ID, bundle });
  await service.call("start", { id: ID });
  await until("it counts", () => existsSync(join(bundle, "rootfs/count")));
  const images = join(directory, "images");
  const options = packMessage(runcOptions.CheckpointOptionsSchema, { exit: true });
  const dumped = service.call("checkpoint", { id: ID, path: images, options });
  if (criuWorks) await dumped;
  else {
    const refused = (error: unknown) => error instanceof TtrpcError && error.code === CODE.failedPrecondition;
    await assert.rejects(dumped, refused);
    await assert.rejects(dumped, /checkpoints need criu, /);
    assert.equal((await service.call("state", { id: ID })).status, taskTypes.Status.RUNNING);
    assert.equal(existsSync(images), false);
    await service.call("kill", { id: ID, signal: 9 });
  }
  await service.call("wait", { id: ID }, WITHIN);
  await service.call("delete", { id: ID });
  assert.equal(existsSync(join(images, "inventory.img")), criuWorks);
  const again = service.call("create", { id: ID, bundle, checkpoint: images });
  if (!criuWorks) return await assert.rejects(again, /checkpoints need criu, /);
  const { pid } = await again;
  const count = (): number => Number(readFileSync(join(bundle, "rootfs/count"), "utf8"));
  const at = count();
  assert.equal((await service.call("state", { id: ID })).status, taskTypes.Status.CREATED);
  assert.equal(count(), at, "it does not run before it is started");
  assert.equal((await service.call("start", { id: ID })).pid, pid);
  await until("it counts on", () => count() > at);
  const process = { args: ["sh", "-c", "exit 3"], env: ["PATH=/bin"], cwd: "/", user: { uid: 0, gid: 0 } };
  const spec = packJson("Process", process);
  await service.call("exec", { id: ID, execId: "e", spec });
  await service.call("start", { id: ID, execId: "e" });
  assert.equal((await service.call("wait", { id: ID, execId: "e" }, WITHIN)).exitStatus, 3);
  await service.call("kill", { id: ID, signal: 9 });
  assert.equal((await service.call("wait", { id: ID }, WITHIN)).exitStatus, 137);
  await service.call("delete", { id: ID });
});
