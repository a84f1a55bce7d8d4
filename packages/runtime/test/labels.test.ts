/** AppArmor and SELinux, where the machine has them: profile and label hold from the first instruction of the container's program. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { container, execIn, lines, machine, useMachine } from "./support/containers.ts";
import { shellSpec, withLinux, withProcess } from "./support/machine.ts";

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

const LABEL = "system_u:system_r:container_t:s0:c1,c2";
const FILES = "system_u:object_r:container_file_t:s0:c1,c2";

/** undefined: SELinux is on, and its policy knows both labels. */
function selinuxProblem(): string | undefined {
  if (!existsSync("/sys/fs/selinux/enforce")) return "SELinux is not enabled";
  try {
    // Written to be checked (selinux: security/selinux/selinuxfs.c, sel_write_context).
    for (const label of [LABEL, FILES]) writeFileSync("/sys/fs/selinux/context", label);
    return undefined;
  } catch (error) {
    return `the policy has no container_t: ${(error as Error).message}`;
  }
}

const unlabelled = selinuxProblem();
if (unlabelled !== undefined) test("SELinux labels", { skip: unlabelled }, () => {});
else
  container("SELinux labels: of the container, of what is executed in it, of its file systems", async () => {
    const confined = withProcess({ selinuxLabel: LABEL });
    const running = await machine().create(confined(shellSpec("sleep 60")));
    try {
      await running.link.start();
      const labelOf = (pid: number): string => readFileSync(`/proc/${pid}/attr/current`, "utf8").replace(/\0?\n?$/, "");
      assert.equal(labelOf(running.pid), LABEL);
      const look = "tr -d '\\0' </proc/self/attr/current";
      assert.equal((await execIn(running, look, { selinuxLabel: LABEL })).stdout, LABEL);
      assert.notEqual((await execIn(running, look, {})).stdout, LABEL);
    } finally {
      await machine().end(running);
    }
    const all = await lines("grep ' tmpfs ' /proc/self/mountinfo", withLinux({ mountLabel: FILES }));
    // The root file system is the caller's, who labels it.
    const mounts = all.filter((line) => line.split(" ")[4] !== "/");
    assert.ok(mounts.length > 0 && mounts.every((line) => line.includes(`context="${FILES}"`)), mounts.join("\n"));
    await assert.rejects(
      machine().run("true", withProcess({ selinuxLabel: "no-such-label" })),
      /write .*attr\/exec .*process\.selinuxLabel\): EINVAL/,
    );
  });
