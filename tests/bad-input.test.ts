/** What is wrong with a request is named in one clear error, and nothing of it is left. Needs root. */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { status as codes } from "@grpc/grpc-js";
import { IMAGE, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { OWN_PID, containerConfig, createContainer, runPod, sandboxConfig, status } from "./support/pods.ts";

interface Expected {
  readonly code: number;
  readonly message: RegExp;
}
const rejects = (promise: Promise<unknown>, { code, message }: Expected, what: string): Promise<void> =>
  assert.rejects(promise, (error: Error & { code: number }) => {
    assert.equal(error.code, code, `${what}: ${error.message}`);
    assert.match(error.message, message, what);
    return true;
  });

describe("bad input", () => {
  let daemon: TestDaemon;
  before(async () => {
    daemon = await TestDaemon.start();
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  test("pods", async () => {
    const nothing = await inventory(daemon);
    const own = sandboxConfig(daemon).linux ?? {};
    const cases: Record<string, [object | undefined, Expected]> = {
      "no config": [undefined, { code: codes.INVALID_ARGUMENT, message: /config: missing/ }],
      "no metadata": [{ metadata: undefined }, { code: codes.INVALID_ARGUMENT, message: /config\.metadata: missing/ }],
      "a sysctl of the host": [
        { linux: { ...own, sysctls: { "kernel.panic": "1" } } },
        { code: codes.INVALID_ARGUMENT, message: /kernel\.panic/ },
      ],
      "a sysctl that does not exist": [
        { linux: { ...own, sysctls: { "net.ipv4.no_such": "1" } } },
        { code: codes.UNKNOWN, message: /net.ipv4.no_such.*ENOENT/ },
      ],
      "a sysctl's bad value": [
        { linux: { ...own, sysctls: { "net.ipv4.ip_forward": "many" } } },
        { code: codes.UNKNOWN, message: /net.ipv4.ip_forward.*EINVAL/ },
      ],
      "a port that is none": [
        { portMappings: [{ containerPort: 80, hostPort: 70000 }] },
        { code: codes.INVALID_ARGUMENT, message: /port_mappings\[0\]\.host_port: 70000/ },
      ],
      "a user namespace": [
        { linux: { securityContext: { namespaceOptions: { pid: 1, usernsOptions: { mode: 0 } } } } },
        { code: codes.INVALID_ARGUMENT, message: /userns_options/ },
      ],
      "a systemd slice": [
        { linux: { ...own, cgroupParent: "kubepods.slice" } },
        { code: codes.INVALID_ARGUMENT, message: /cgroup_parent.*cgroupfs/ },
      ],
    };
    for (const [what, [more, expected]] of Object.entries(cases)) {
      const config = more === undefined ? undefined : { ...sandboxConfig(daemon), ...more };
      await rejects(daemon.client.runtime.runPodSandbox(config ? { config } : {}), expected, what);
    }
    await rejects(
      daemon.client.runtime.runPodSandbox({ config: sandboxConfig(daemon), runtimeHandler: "nope" }),
      { code: codes.INVALID_ARGUMENT, message: /"nope".*known: runc, berth/ },
      "an unknown handler",
    );
    await assertNothingLeft(daemon, nothing);
  });

  test("containers", async () => {
    const pod = await runPod(daemon);
    const nothing = await inventory(daemon);
    const security = (more: object): object => ({ linux: { securityContext: { ...OWN_PID, ...more } } });
    const cases: Record<string, [object, Expected]> = {
      "no metadata": [{ metadata: undefined }, { code: codes.INVALID_ARGUMENT, message: /config\.metadata: missing/ }],
      "no image": [{ image: undefined }, { code: codes.INVALID_ARGUMENT, message: /config\.image\.image: missing/ }],
      "an image that is not there": [
        { image: { image: "localhost/none:none" } },
        { code: codes.NOT_FOUND, message: /image "localhost\/none:none" not found/ },
      ],
      "a mount source that is missing": [
        { mounts: [{ hostPath: "/no/such/dir", containerPath: "/data" }] },
        { code: codes.INVALID_ARGUMENT, message: /mounts\[0\]\.host_path: "\/no\/such\/dir" does not exist/ },
      ],
      "a relative mount target": [
        { mounts: [{ hostPath: "/tmp", containerPath: "data" }] },
        { code: codes.INVALID_ARGUMENT, message: /mounts\[0\]\.container_path/ },
      ],
      "a device that is none": [
        { devices: [{ hostPath: "/etc/passwd", containerPath: "/dev/x" }] },
        { code: codes.INVALID_ARGUMENT, message: /devices\[0\].*not a device/ },
      ],
      "an unknown user": [
        security({ runAsUsername: "nobody-here" }),
        { code: codes.INVALID_ARGUMENT, message: /user "nobody-here"/ },
      ],
      "an unknown capability": [
        security({ capabilities: { addCapabilities: ["FLY"] } }),
        { code: codes.INVALID_ARGUMENT, message: /capability "FLY"/ },
      ],
      "a seccomp profile that is missing": [
        security({ seccomp: { profileType: 2, localhostRef: "/no/such/profile.json" } }),
        { code: codes.INVALID_ARGUMENT, message: /localhost_ref.*\/no\/such\/profile\.json/ },
      ],
      "a CDI device that is none": [
        { CDIDevices: [{ name: "/dev/null" }] },
        { code: codes.INVALID_ARGUMENT, message: /CDI_devices\[0\]: unqualified device/ },
      ],
    };
    for (const [what, [more, expected]] of Object.entries(cases)) {
      const config = { ...containerConfig("true"), ...more };
      await rejects(
        daemon.client.runtime.createContainer({ podSandboxId: pod.id, config, sandboxConfig: pod.config }),
        expected,
        what,
      );
    }
    await assertNothingLeft(daemon, nothing);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("a command that does not exist fails the start and says so", async () => {
    const pod = await runPod(daemon);
    const id = await createContainer(daemon, pod, "", { command: ["no-such-program"] });
    await rejects(
      daemon.client.runtime.startContainer({ containerId: id }),
      {
        code: codes.UNKNOWN,
        message: /no-such-program.*executable file not found|executable file not found.*no-such-program/s,
      },
      "start",
    );
    const { state, exitCode, reason, message } = await status(daemon, id);
    assert.deepEqual([state, exitCode, reason], [2, 128, "StartError"]);
    assert.match(message, /no-such-program/);
    await rejects(
      daemon.client.runtime.startContainer({ containerId: id }),
      { code: codes.FAILED_PRECONDITION, message: /exited/ },
      "start again",
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("a pod that is stopped takes no containers", async () => {
    const pod = await runPod(daemon);
    await daemon.client.runtime.stopPodSandbox({ podSandboxId: pod.id });
    await rejects(
      createContainer(daemon, pod, "true"),
      { code: codes.FAILED_PRECONDITION, message: /not ready/ },
      "create",
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("image references", async () => {
    const { images: image } = daemon.client;
    await rejects(
      image.pullImage({ image: { image: "localhost/UPPER" } }),
      { code: codes.INVALID_ARGUMENT, message: /localhost\/UPPER/ },
      "upper case",
    );
    await rejects(image.pullImage({}), { code: codes.INVALID_ARGUMENT, message: /image\.image: missing/ }, "no image");
    await rejects(
      image.pullImage({ image: { image: "127.0.0.1:9/none" } }),
      { code: codes.UNKNOWN, message: /127\.0\.0\.1:9/ },
      "nobody listens",
    );
    await image.removeImage({ image: { image: "localhost/none:none" } });
    assert.ok((await image.imageStatus({ image: { image: IMAGE } })).image);
  });
});

describe("CNI failures", () => {
  test("a plugin that is missing or fails is named, and the pod leaves nothing", async () => {
    await using daemon = await TestDaemon.start();
    const bin = `${daemon.dir}/bin`;
    mkdirSync(bin);
    writeFileSync(
      `${bin}/broken`,
      '#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\necho \'{"cniVersion":"1.0.0","code":11,"msg":"out of order"}\'; exit 1\n',
    );
    chmodSync(`${bin}/broken`, 0o755);
    await daemon.kill("SIGTERM");
    for (const [type, message] of [
      ["broken", /broken.*out of order/s],
      ["absent", /absent/],
    ] as const) {
      rmSync(`${daemon.cniDir}/10-test.conflist`, { force: true });
      writeFileSync(
        `${daemon.cniDir}/10-test.conflist`,
        JSON.stringify({ cniVersion: "1.0.0", name: daemon.bridge, plugins: [{ type }] }),
      );
      await daemon.startAgain({ args: ["--cni-bin-dir", bin] });
      const nothing = await inventory(daemon);
      await rejects(
        daemon.client.runtime.runPodSandbox({ config: sandboxConfig(daemon) }),
        { code: codes.UNKNOWN, message },
        type,
      );
      await assertNothingLeft(daemon, nothing);
      assert.deepEqual((await daemon.client.runtime.listPodSandbox({})).items, []);
      await daemon.kill("SIGTERM");
    }
    await daemon.startAgain();
  });
});
