/** The option SystemdCgroup, where systemd is PID 1: the container is a scope of its slice. Run by tests/guest. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { runcOptions } from "@berth/spec/shim";
import { packJson, packMessage } from "../src/index.ts";
import { startShim, until, whyNoShim } from "./support/shim.ts";

const ID = "scoped";
const SCOPE = `berthtest-${ID}.scope`;
const PLACE = `/sys/fs/cgroup/system.slice/${SCOPE}`;
const why = existsSync("/run/systemd/system") ? whyNoShim : "systemd is not this machine's init";

const property = (name: string): string =>
  spawnSync("systemctl", ["show", SCOPE, `--property=${name}`, "--value"], { encoding: "utf8" }).stdout.trim();

test(
  "a container in a scope: made with its first process, changed with the container, gone with it",
  { skip: why },
  async (t) => {
    const { bundle, service } = await startShim(t, {
      id: ID,
      script: "while :; do sleep 0.1; done",
      cgroupsPath: `system.slice:berthtest:${ID}`,
    });
    const options = packMessage(runcOptions.OptionsSchema, { systemdCgroup: true });
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
    await until("the scope is gone", () => !existsSync(PLACE) && property("LoadState") === "not-found");
  },
);
