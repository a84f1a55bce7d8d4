/** AppArmor, where the machine enforces it: the profile holds from the first instruction of the container's program. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { container, execIn, machine, useMachine } from "./support/containers.ts";
import { shellSpec, withProcess } from "./support/machine.ts";

useMachine();

const ENABLED = "/sys/module/apparmor/parameters/enabled";
const PROFILE = "berth-test-profile";
const why = !existsSync(ENABLED)
  ? "this kernel has no AppArmor"
  : readFileSync(ENABLED, "utf8").startsWith("Y")
    ? spawnSync("apparmor_parser", ["--version"]).error === undefined
      ? undefined
      : "needs apparmor_parser"
    : "AppArmor is not enabled";
const TEXT = `profile ${PROFILE} flags=(attach_disconnected) { file, capability, mount, umount, signal, ptrace, deny /etc/forbidden rw, }`;

const parser = (flag: string) => spawnSync("apparmor_parser", [flag], { input: TEXT, encoding: "utf8" });
before(() => {
  if (why === undefined) assert.equal(parser("-r").status, 0);
});
after(() => {
  if (why === undefined) parser("-R");
});

if (why !== undefined) test("AppArmor profiles", { skip: why }, () => {});
else
  container("AppArmor profiles, of the container and of what is executed in it", async () => {
    const confined = withProcess({ apparmorProfile: PROFILE });
    const running = await machine().create(confined(shellSpec("sleep 60")));
    try {
      await running.link.start();
      assert.equal(readFileSync(`/proc/${running.pid}/attr/current`, "utf8").trim(), `${PROFILE} (enforce)`);
      const look = "cat /proc/self/attr/current; touch /etc/forbidden 2>&1 | grep -o denied";
      assert.equal(
        (await execIn(running, look, { apparmorProfile: PROFILE })).stdout,
        `${PROFILE} (enforce)\ndenied\n`,
      );
      assert.match((await execIn(running, look, {})).stdout, /^unconfined\n$/);
    } finally {
      await machine().end(running);
    }
    await assert.rejects(
      machine().run("true", withProcess({ apparmorProfile: "no-such-profile" })),
      /write .*attr\/apparmor\/exec .*process\.apparmorProfile\): ENOENT/,
    );
  });
