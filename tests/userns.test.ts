/** Pods with a user namespace: root inside is nobody outside, and everything still works. Needs root, and Linux 6.13. */
import assert from "node:assert/strict";
import { chownSync, mkdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { status as codes } from "@grpc/grpc-js";
import { TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { createContainer, runPod, sandboxConfig, sh, startContainer, status } from "./support/pods.ts";

const SLEEP = "while :; do sleep 1000; done";
const [POD, CONTAINER, NODE] = [0, 1, 2] as const;
const SHIFT = 300_000;
const map = [{ containerId: 0, hostId: SHIFT, length: 65_536 }];
const userns = { mode: POD, uids: map, gids: map };
const linux = (more: object = {}, security: object = {}): object => ({
  linux: {
    securityContext: { namespaceOptions: { pid: CONTAINER, usernsOptions: userns, ...more }, ...security },
  },
});

describe("a pod in a user namespace", () => {
  let daemon: TestDaemon;
  let supported = false;
  before(async () => {
    daemon = await TestDaemon.start();
    const { runtimeHandlers, features } = await daemon.client.runtime.status({});
    const own = runtimeHandlers.find(({ name }) => name === "");
    supported = own?.features?.userNamespaces === true;
    assert.equal(features?.userNamespacesHostNetwork, supported);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });
  const pidOf = async (containerId: string): Promise<number> => {
    const { info } = await daemon.client.runtime.containerStatus({ containerId, verbose: true });
    return (JSON.parse(info.info ?? "") as { pid: number }).pid;
  };
  const cases: Record<string, object> = {
    "with its own network": {},
    "with a shared PID namespace": { pid: POD },
    "on the host's network": { network: NODE },
    "on the host's network and IPC": { network: NODE, ipc: NODE },
  };
  for (const [what, more] of Object.entries(cases)) {
    test(what, async (t) => {
      if (!supported) return t.skip("this kernel cannot map the owners of an image's layers (Linux 6.13)");
      const nothing = await inventory(daemon);
      const pod = await runPod(daemon, linux(more));
      const id = await startContainer(daemon, pod, SLEEP, linux(more));
      const pid = await pidOf(id);
      assert.match(readFileSync(`/proc/${pid}/status`, "utf8"), new RegExp(`^Uid:\\t${SHIFT}\\t`, "m"));
      assert.equal(
        await sh(daemon, id, "id -u; stat -c %u:%g /bin/sh /etc/hosts /etc/resolv.conf"),
        "0\n0:0\n0:0\n0:0\n",
      );
      assert.match(await sh(daemon, id, "cat /proc/self/uid_map"), new RegExp(`0 +${SHIFT} +65536`));
      await sh(
        daemon,
        id,
        "echo x > /new; chown 12:13 /new; rm /bin/busybox.none 2>/dev/null; mkdir /dir; echo y >> /etc/hosts",
      );
      assert.equal(await sh(daemon, id, "stat -c %u:%g /new"), "12:13\n");
      assert.equal(statSync(`/proc/${pid}/root/new`).uid, SHIFT + 12, "outside it is the mapped id");
      await sh(daemon, id, "echo x > /dev/shm/x; echo x > /dev/null; [ -c /dev/zero ]; mount | grep -q 'sysfs.*ro'");
      const user = readlinkSync(`/proc/${pid}/ns/user`);
      assert.notEqual(user, readlinkSync("/proc/self/ns/user"));
      const second = await startContainer(daemon, pod, SLEEP, linux(more));
      assert.equal(readlinkSync(`/proc/${await pidOf(second)}/ns/user`), user, "it is the pod's, not the container's");
      if (!("network" in more)) {
        await sh(daemon, id, "ip link add dummy-x type dummy 2>/dev/null; cat /proc/sys/net/ipv4/ping_group_range");
        await sh(daemon, id, "ip addr show eth0 | grep -q inet");
        const admin = await startContainer(
          daemon,
          pod,
          SLEEP,
          linux(more, { capabilities: { addCapabilities: ["NET_ADMIN"] } }),
        );
        await sh(daemon, admin, "ip link set eth0 mtu 1400 && ip link show eth0 | grep -q 'mtu 1400'");
      }
      const { status: of } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
      assert.equal(of?.linux?.namespaces?.options?.usernsOptions?.uids[0]?.hostId, SHIFT);
      await daemon.kill("SIGKILL");
      await daemon.startAgain();
      assert.equal(await sh(daemon, id, "id -u"), "0\n");
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, nothing);
    });
  }

  test("volumes: mapped, their owners are the same inside as on disk; unmapped, nobody's", async (t) => {
    if (!supported) return t.skip("this kernel cannot map the owners of an image's layers (Linux 6.13)");
    const volume = `${daemon.dir}/volume`;
    mkdirSync(volume);
    writeFileSync(`${volume}/file`, "data");
    chownSync(`${volume}/file`, 1000, 1001);
    const pod = await runPod(daemon, linux());
    const id = await startContainer(daemon, pod, SLEEP, {
      ...linux(),
      mounts: [
        { hostPath: volume, containerPath: "/mapped", uidMappings: map, gidMappings: map },
        { hostPath: volume, containerPath: "/plain" },
      ],
    });
    assert.equal(await sh(daemon, id, "stat -c %u:%g /mapped/file /plain/file"), "1000:1001\n65534:65534\n");
    await sh(daemon, id, "echo more > /mapped/new");
    assert.equal(statSync(`${volume}/new`).uid, 0);
    await assert.rejects(sh(daemon, id, "echo more > /plain/other"), /Permission denied/);
    await assert.rejects(
      createContainer(daemon, pod, "true", {
        ...linux(),
        mounts: [{ hostPath: volume, containerPath: "/v", uidMappings: map }],
      }),
      (error: Error & { code: number }) => {
        assert.equal(error.code, codes.INVALID_ARGUMENT);
        assert.match(error.message, /mounts\[0\]\.uidMappings: .*give gidMappings too/);
        return true;
      },
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("sysctls of its own namespaces, and stats", async (t) => {
    if (!supported) return t.skip("this kernel cannot map the owners of an image's layers (Linux 6.13)");
    const pod = await runPod(daemon, {
      linux: {
        securityContext: { namespaceOptions: { pid: CONTAINER, usernsOptions: userns } },
        sysctls: { "net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1" },
      },
    });
    const id = await startContainer(daemon, pod, SLEEP, linux());
    assert.equal(await sh(daemon, id, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced"), "1\n1\n");
    assert.match(await sh(daemon, id, "cat /proc/sys/net/ipv4/ping_group_range"), /^0\s+65535$/m);
    const { stats } = await daemon.client.runtime.podSandboxStats({ podSandboxId: pod.id });
    assert.equal(stats?.linux?.network?.defaultInterface?.name, "eth0");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("what cannot be is refused by name, and leaves nothing", async () => {
    const nothing = await inventory(daemon);
    const bad: Record<string, [object, RegExp]> = {
      "no mapping": [{ mode: POD, uids: [], gids: map }, /userns_options\.uids: a user namespace needs a mapping/],
      "no root": [
        { mode: POD, uids: [{ containerId: 1, hostId: 1, length: 9 }], gids: map },
        /root \(0\) is not mapped/,
      ],
      overlap: [{ mode: POD, uids: [...map, ...map], gids: map }, /mappings overlap/],
      empty: [{ mode: POD, uids: map, gids: [{ containerId: 0, hostId: 1, length: 0 }] }, /gids\[0\]\.length/],
      "a container's": [{ mode: CONTAINER, uids: map, gids: map }, /mode: CONTAINER is not a mode/],
      "the host's with a map": [{ mode: NODE, uids: map, gids: [] }, /mode NODE is the host's/],
    };
    for (const [what, [options, message]] of Object.entries(bad)) {
      const config = { ...sandboxConfig(daemon), ...linux({ usernsOptions: options }) };
      await assert.rejects(daemon.client.runtime.runPodSandbox({ config }), message, what);
    }
    await assertNothingLeft(daemon, nothing);
    const plain = await runPod(daemon);
    await assert.rejects(createContainer(daemon, plain, "true", linux()), /userns_options: is not the pod's/);
    assert.ok(
      await status(daemon, await createContainer(daemon, plain, "true", linux({ usernsOptions: { mode: NODE } }))),
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: plain.id });
  });
});

for (const snapshotter of ["overlayfs", "native"] as const) {
  test(`a pod in a user namespace, its layers kept by ${snapshotter}`, async (t) => {
    await using daemon = await TestDaemon.start({ args: ["--snapshotter", snapshotter] });
    const { runtimeHandlers } = await daemon.client.runtime.status({});
    const own = runtimeHandlers.find(({ name }) => name === "");
    if (own?.features?.userNamespaces !== true) return t.skip("this kernel cannot map the owners of an image's layers");
    const pod = await runPod(daemon, linux());
    const id = await startContainer(daemon, pod, SLEEP, linux());
    assert.equal(
      await sh(daemon, id, "stat -c %u:%g /bin/sh; echo x >/new; chown 12:13 /new; stat -c %u:%g /new"),
      "0:0\n12:13\n",
    );
    const { info } = await daemon.client.runtime.containerStatus({ containerId: id, verbose: true });
    const { pid } = JSON.parse(info["info"] ?? "") as { pid: number };
    assert.equal(statSync(`/proc/${pid}/root/new`).uid, SHIFT + 12, "outside it is the mapped id");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    return undefined;
  });
}
