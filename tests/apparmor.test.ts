/** AppArmor through the CRI, where the machine enforces it: the default profile, none, and the node's own. Run by tests/guest. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { cri } from "@berth/spec";
import { status as codes } from "@grpc/grpc-js";
import { TestDaemon } from "./support/daemon.ts";
import { OWN_PID, runPod, sh, startContainer } from "./support/pods.ts";

const ENABLED = "/sys/module/apparmor/parameters/enabled";
const why = !existsSync(ENABLED)
  ? "this kernel has no AppArmor"
  : readFileSync(ENABLED, "utf8").startsWith("Y")
    ? spawnSync("apparmor_parser", ["--version"]).error === undefined
      ? undefined
      : "needs apparmor_parser"
    : "AppArmor is not enabled";
const OWN = "berth-test-no-writes";
const { RuntimeDefault, Unconfined, Localhost } = cri.SecurityProfile_ProfileType;
const parser = (flag: string) =>
  spawnSync("apparmor_parser", [flag], {
    input: `profile ${OWN} flags=(attach_disconnected) { file, capability, network, signal, deny /tmp/** w, }`,
    encoding: "utf8",
  });

describe("AppArmor", why === undefined ? {} : { skip: why }, () => {
  let daemon: TestDaemon;
  let pod: Awaited<ReturnType<typeof runPod>>;
  before(async () => {
    assert.equal(parser("-r").status, 0);
    daemon = await TestDaemon.start();
    pod = await runPod(daemon);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    parser("-R");
  });

  const confined = (security: object): Promise<string> =>
    startContainer(daemon, pod, "exec sleep 1000", { linux: { securityContext: { ...OWN_PID, ...security } } });
  const profileOf = (id: string): Promise<string> => sh(daemon, id, "cat /proc/self/attr/current");
  const apparmor = (profileType: number, localhostRef = "") => ({ apparmor: { profileType, localhostRef } });

  test("a container that asks for nothing, or for the default, has it: loaded by berthd, and enforced", async () => {
    for (const security of [{}, apparmor(RuntimeDefault), { apparmorProfile: "runtime/default" }]) {
      const id = await confined(security);
      assert.equal(await profileOf(id), "cri-containerd.apparmor.d (enforce)\n");
      assert.match(
        readFileSync("/sys/kernel/security/apparmor/profiles", "utf8"),
        /^cri-containerd\.apparmor\.d \(enforce\)$/m,
      );
    }
    // What the capability alone would allow.
    const id = await confined({ capabilities: { addCapabilities: ["SYS_ADMIN"] } });
    await assert.rejects(sh(daemon, id, "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m"), /[Pp]ermission denied/);
    await sh(daemon, id, "echo free >/tmp/file && cat /tmp/file && kill -0 1");
  });

  test("unconfined, and privileged, are unconfined", async () => {
    for (const security of [apparmor(Unconfined), { apparmorProfile: "unconfined" }]) {
      const id = await confined({ ...security, capabilities: { addCapabilities: ["SYS_ADMIN"] } });
      assert.equal(await profileOf(id), "unconfined\n");
      await sh(daemon, id, "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m");
    }
    const trusted = await runPod(daemon, { linux: { securityContext: { ...OWN_PID, privileged: true } } });
    const id = await startContainer(daemon, trusted, "exec sleep 1000", {
      linux: { securityContext: { ...OWN_PID, privileged: true } },
    });
    assert.equal(await profileOf(id), "unconfined\n");
  });

  test("a profile of the node's own denies what it denies", async () => {
    for (const security of [
      apparmor(Localhost, OWN),
      apparmor(Localhost, `localhost/${OWN}`),
      { apparmorProfile: `localhost/${OWN}` },
    ]) {
      const id = await confined(security);
      assert.equal(await profileOf(id), `${OWN} (enforce)\n`);
      await assert.rejects(sh(daemon, id, "echo no >/tmp/file"), /[Pp]ermission denied/);
    }
  });

  test("a profile that is not loaded is refused by name", async () => {
    await assert.rejects(confined(apparmor(Localhost, "no-such-profile")), (error: Error & { code: number }) => {
      assert.equal(error.code, codes.INVALID_ARGUMENT);
      assert.match(error.message, /no profile "no-such-profile" is loaded on this node/);
      return true;
    });
  });
});
