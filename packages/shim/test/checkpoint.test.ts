/** Checkpoint, and Create from one, by the Task API; where CRIU cannot work (as in tests/guest it can), that it is refused with its reason. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { runcOptions, taskTypes } from "@berth/spec/shim";
import { packMessage, parseBootstrap, TaskService } from "../src/index.ts";

const PROGRAM = new URL("../../../bin/containerd-shim-berth-v2", import.meta.url).pathname;
const LIMIT_MS = 60_000;
const ID = "counter";
const why =
  process.getuid?.() !== 0 ? "needs root" : existsSync("/bin/busybox") ? false : "needs a static /bin/busybox";
const criuWorks = spawnSync("criu", ["check"]).status === 0;

/** Counts into its file. */
function makeBundle(directory: string): string {
  const bundle = join(directory, "bundle");
  const bin = join(bundle, "rootfs/bin");
  mkdirSync(bin, { recursive: true });
  for (const name of ["proc", "dev"]) mkdirSync(join(bundle, "rootfs", name));
  cpSync("/bin/busybox", join(bin, "busybox"));
  for (const name of ["sh", "sleep"]) symlinkSync("busybox", join(bin, name));
  const spec = {
    ociVersion: "1.1.0",
    process: {
      user: { uid: 0, gid: 0 },
      args: ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/new; busybox mv /new /count; sleep 0.05; done"],
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
      cgroupsPath: `/berth-test-shim-${process.pid}`,
    },
  };
  writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
  return bundle;
}

async function startShim(t: TestContext, directory: string, bundle: string): Promise<TaskService> {
  const flags = ["-namespace", "test", "-address", join(directory, "c.sock"), "-id", ID, "start"];
  const env = { ...process.env, BERTH_SHIM_STATE: join(directory, "run"), TTRPC_ADDRESS: "" };
  const { status, stdout, stderr } = spawnSync(PROGRAM, flags, { cwd: bundle, env, input: "" });
  if (status !== 0) rmSync(directory, { recursive: true });
  assert.equal(status, 0, String(stderr));
  const service = await TaskService.connect(parseBootstrap(stdout), "test");
  t.after(async () => {
    await service.call("shutdown", { id: ID, now: true }).catch(() => undefined);
    await service.closed;
    rmSync(directory, { recursive: true });
  });
  return service;
}

const countIn = (bundle: string): number => Number(readFileSync(join(bundle, "rootfs/count"), "utf8"));

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = Date.now() + LIMIT_MS; !holds();) {
    assert.ok(Date.now() < end, `timed out waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("a container goes on where it was checkpointed", { skip: why }, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "berth-shim-"));
  const bundle = makeBundle(directory);
  const service = await startShim(t, directory, bundle);
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
  await service.call("wait", { id: ID });
  await service.call("delete", { id: ID });
  const again = service.call("create", { id: ID, bundle, checkpoint: images });
  if (!criuWorks) return await assert.rejects(again, /checkpoints need criu, /);
  const before = countIn(bundle);
  await again;
  assert.equal(countIn(bundle), before, "it runs from its start on");
  await service.call("start", { id: ID });
  await until("it counts on", () => countIn(bundle) > before);
  assert.ok(countIn(bundle) < before + 1_000);
  await service.call("kill", { id: ID, signal: 9 });
  assert.equal((await service.call("wait", { id: ID })).exitStatus, 137);
  await service.call("delete", { id: ID });
  assert.deepEqual(
    readdirSync(join(directory, "run/berth")).filter((name) => !/^(hand-|seccomp)/.test(name)),
    [],
  );
});
