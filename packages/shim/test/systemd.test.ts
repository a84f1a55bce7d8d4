/** The option SystemdCgroup, where systemd is PID 1: the container is a scope of its slice. Run by tests/guest. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { runcOptions } from "@berth/spec/shim";
import { packJson, packMessage } from "../src/index.ts";
import { deleteLeft, startShim, until, whyNoShim } from "./support/shim.ts";

const ID = "scoped";
const SCOPE = `berthtest-${ID}.scope`;
const PLACE = `/sys/fs/cgroup/system.slice/${SCOPE}`;
const why = existsSync("/run/systemd/system") ? whyNoShim : "systemd is not this machine's init";
const options = packMessage(runcOptions.OptionsSchema, { systemdCgroup: true });
const asked = { id: ID, script: "while :; do sleep 0.1; done", cgroupsPath: `system.slice:berthtest:${ID}` };

const property = (name: string): string =>
  spawnSync("systemctl", ["show", SCOPE, `--property=${name}`, "--value"], { encoding: "utf8" }).stdout.trim();
const gone = (): boolean => !existsSync(PLACE) && property("LoadState") === "not-found";

test("a scope: made with the first process, changed with the container, gone with it", { skip: why }, async (t) => {
  const { bundle, service } = await startShim(t, asked);
  const { pid } = await service.call("create", { id: ID, bundle, options });
  await service.call("start", { id: ID });
  assert.match(readFileSync(`/proc/${pid}/cgroup`, "utf8"), new RegExp(`^0::/system\\.slice/${SCOPE}$`, "m"));
  assert.equal(property("ActiveState"), "active");
  const limit = 48 << 20;
  await service.call("update", { id: ID, resources: packJson("LinuxResources", { memory: { limit } }) });
  assert.equal(property("MemoryMax"), String(limit));
  assert.equal(readFileSync(`${PLACE}/memory.max`, "utf8"), `${limit}\n`);
  await service.call("pause", { id: ID });
  assert.match(readFileSync(`${PLACE}/cgroup.events`, "utf8"), /^frozen 1$/m);
  await service.call("resume", { id: ID });
  await service.call("kill", { id: ID, signal: 9, all: true });
  assert.equal((await service.call("wait", { id: ID })).exitStatus, 137);
  await service.call("delete", { id: ID });
  await until("the scope is gone", gone);
});

test("the shim is killed: delete ends what is in the scope", { skip: why }, async (t) => {
  const shim = await startShim(t, asked);
  const { bundle, service } = shim;
  const { pid } = await service.call("create", { id: ID, bundle, options });
  await service.call("start", { id: ID });
  const { shimPid } = await service.call("connect", { id: ID });
  process.kill(shimPid, "SIGKILL");
  await service.closed;
  deleteLeft(shim);
  assert.equal(existsSync(`/proc/${pid}`), false);
  await until("the scope is gone", gone);
});
