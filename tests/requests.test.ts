/** Fields of requests that no other test is about: each has its effect, or is refused by its name. Needs root. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { after, before, describe, test } from "node:test";
import { cri } from "@berth/spec";
import { status as codes } from "@grpc/grpc-js";
import { busyboxFiles, imageArchive } from "../scripts/busybox-image.ts";
import { claimPort } from "./support/claims.ts";
import { IMAGE, TestDaemon } from "./support/daemon.ts";
import {
  OWN_PID,
  collect,
  createContainer,
  exited,
  runPod,
  sandboxConfig,
  sh,
  startContainer,
  status,
} from "./support/pods.ts";

const SLEEP = "while :; do sleep 1000; done";
const { POD, CONTAINER, TARGET } = cri.NamespaceMode;
const security = (more: object): object => ({ linux: { securityContext: { ...OWN_PID, ...more } } });
const refused =
  (code: number, message: RegExp) =>
  (error: Error & { code: number }): boolean => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };

describe("requests", () => {
  let daemon: TestDaemon;
  let pod: Awaited<ReturnType<typeof runPod>>;
  before(async () => {
    daemon = await TestDaemon.start();
    pod = await runPod(daemon);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });
  const field = async (id: string, name: string): Promise<string> =>
    new RegExp(`^${name}:\\s*(.*)$`, "m").exec(await sh(daemon, id, "cat /proc/1/status"))?.[1] ?? "";

  test("metadata, labels, annotations and log paths come back as they were given", async () => {
    const config = sandboxConfig(daemon, { labels: { a: "1" }, annotations: { "example.com/b": "2" } });
    const { podSandboxId } = await daemon.client.runtime.runPodSandbox({ config, runtimeHandler: "runc" });
    const { status: own } = await daemon.client.runtime.podSandboxStatus({ podSandboxId });
    assert.deepEqual(
      [own?.metadata?.name, own?.metadata?.namespace, own?.metadata?.uid, own?.metadata?.attempt],
      [config.metadata?.name, "test", config.metadata?.uid, 0],
    );
    assert.deepEqual(
      [own?.labels, own?.annotations, own?.runtimeHandler],
      [{ a: "1" }, { "example.com/b": "2" }, "runc"],
    );
    const id = await createContainer(daemon, { id: podSandboxId, config }, "true", {
      metadata: { name: "named", attempt: 4 },
      labels: { c: "3" },
      annotations: { "example.com/d": "4" },
      logPath: "here/0.log",
      image: { image: IMAGE, userSpecifiedImage: "busybox:mine", annotations: { "example.com/e": "5" } },
    });
    const made = await status(daemon, id);
    assert.deepEqual([made.metadata?.name, made.metadata?.attempt], ["named", 4]);
    assert.deepEqual([made.labels, made.annotations], [{ c: "3" }, { "example.com/d": "4" }]);
    assert.equal(made.logPath, `${config.logDirectory}/here/0.log`);
    assert.deepEqual(
      [made.image?.userSpecifiedImage, made.image?.annotations],
      ["busybox:mine", { "example.com/e": "5" }],
    );
    const { info } = await daemon.client.runtime.containerStatus({ containerId: id, verbose: true });
    const { runtimeSpec } = JSON.parse(info.info ?? "") as { runtimeSpec: { annotations: Record<string, string> } };
    assert.deepEqual(
      Object.entries(runtimeSpec.annotations)
        .filter(([name]) => name.startsWith("io.kubernetes.cri."))
        .map(([name]) => name.slice("io.kubernetes.cri.".length))
        .toSorted((a, b) => a.localeCompare(b)),
      [
        "container-id",
        "container-name",
        "container-type",
        "image-name",
        "sandbox-id",
        "sandbox-name",
        "sandbox-namespace",
        "sandbox-uid",
      ],
    );
    assert.equal(runtimeSpec.annotations["io.kubernetes.cri.image-name"], "busybox:mine");
    await daemon.client.runtime.removePodSandbox({ podSandboxId });
  });

  test("a debugging container joins its target's PID namespace, and no other pod's", async () => {
    const target = await startContainer(daemon, pod, SLEEP);
    const id = await startContainer(
      daemon,
      pod,
      SLEEP,
      security({ namespaceOptions: { pid: TARGET, targetId: target } }),
    );
    assert.equal(
      await sh(daemon, id, "readlink /proc/self/ns/pid"),
      await sh(daemon, target, "readlink /proc/self/ns/pid"),
    );
    const other = await runPod(daemon);
    await assert.rejects(
      createContainer(daemon, other, "true", security({ namespaceOptions: { pid: TARGET, targetId: target } })),
      refused(codes.INVALID_ARGUMENT, /target_id: container ".*" is not in pod/),
    );
    const idle = await createContainer(daemon, pod, "true");
    await assert.rejects(
      createContainer(daemon, pod, "true", security({ namespaceOptions: { pid: TARGET, targetId: idle } })),
      refused(codes.FAILED_PRECONDITION, /target_id: container ".*" is not running/),
    );
    for (const kind of ["network", "ipc"] as const)
      await assert.rejects(
        daemon.client.runtime.runPodSandbox({
          config: sandboxConfig(daemon, { linux: { securityContext: { namespaceOptions: { [kind]: CONTAINER } } } }),
        }),
        refused(codes.INVALID_ARGUMENT, new RegExp(`namespace_options.${kind}: CONTAINER is not a mode of a pod`)),
      );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: other.id });
  });

  test("devices: under another name, with less than all access", async () => {
    const id = await startContainer(daemon, pod, SLEEP, {
      devices: [{ hostPath: "/dev/zero", containerPath: "/dev/nothing", permissions: "r" }],
    });
    assert.equal(await sh(daemon, id, "head -c 2 /dev/nothing | wc -c"), "2\n");
    const { info } = await daemon.client.runtime.containerStatus({ containerId: id, verbose: true });
    const { runtimeSpec } = JSON.parse(info.info ?? "") as {
      runtimeSpec: { linux: { resources: { devices: { access: string; minor?: number }[] } } };
    };
    assert.deepEqual(
      runtimeSpec.linux.resources.devices.filter(({ minor }) => minor === 5).map(({ access }) => access),
      ["r"],
    );
    await assert.rejects(
      createContainer(daemon, pod, "true", { devices: [{ hostPath: "/dev/zero", permissions: "rx" }] }),
      refused(codes.INVALID_ARGUMENT, /devices\[0\]\.permissions: "rx"/),
    );
  });

  test("ambient capabilities are there for a user that is not root", async () => {
    const ambient = { capabilities: { addAmbientCapabilities: ["NET_BIND_SERVICE"] }, runAsUser: { value: 1000n } };
    const id = await startContainer(daemon, pod, SLEEP, security(ambient));
    const bit = 1n << 10n;
    for (const set of ["CapAmb", "CapEff", "CapInh"]) assert.equal(BigInt(`0x${await field(id, set)}`) & bit, bit, set);
  });

  test("seccomp: a profile of the node's, by the new field and by the old; unconfined by both", async () => {
    const path = `${daemon.dir}/profile.json`;
    writeFileSync(
      path,
      JSON.stringify({
        defaultAction: "SCMP_ACT_ALLOW",
        syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 1 }],
      }),
    );
    const forms = [
      { seccomp: { profileType: cri.SecurityProfile_ProfileType.Localhost, localhostRef: path } },
      { seccompProfilePath: `localhost/${path}` },
    ];
    for (const form of forms) {
      const id = await startContainer(daemon, pod, SLEEP, security(form));
      await assert.rejects(sh(daemon, id, "mkdir /d"), /Operation not permitted/);
      assert.equal(await field(id, "Seccomp"), "2");
    }
    const old = async (seccompProfilePath: string): Promise<string> =>
      await field(await startContainer(daemon, pod, SLEEP, security({ seccompProfilePath })), "Seccomp");
    assert.deepEqual([await old("runtime/default"), await old("unconfined")], ["2", "0"]);
    await assert.rejects(
      createContainer(daemon, pod, "true", security({ seccompProfilePath: "other" })),
      refused(codes.INVALID_ARGUMENT, /seccomp_profile_path: "other"/),
    );
  });

  test("AppArmor: default and unconfined always run; a profile of the node's is refused where it cannot be enforced", async (t) => {
    const { RuntimeDefault, Unconfined, Localhost } = cri.SecurityProfile_ProfileType;
    for (const profileType of [RuntimeDefault, Unconfined])
      await sh(daemon, await startContainer(daemon, pod, SLEEP, security({ apparmor: { profileType } })), "true");
    for (const apparmorProfile of ["runtime/default", "unconfined"])
      await sh(daemon, await startContainer(daemon, pod, SLEEP, security({ apparmorProfile })), "true");
    await assert.rejects(
      createContainer(daemon, pod, "true", security({ apparmorProfile: "other" })),
      refused(codes.INVALID_ARGUMENT, /apparmor_profile: "other"/),
    );
    const forms = [
      { apparmor: { profileType: Localhost, localhostRef: "mine" } },
      { apparmorProfile: "localhost/mine" },
    ];
    for (const form of forms)
      await assert.rejects(createContainer(daemon, pod, "true", security(form)), /apparmor.*"mine"/);
    const asked = { ...OWN_PID, apparmor: { profileType: Localhost, localhostRef: "mine" } };
    await assert.rejects(
      daemon.client.runtime.runPodSandbox({ config: sandboxConfig(daemon, { linux: { securityContext: asked } }) }),
      /apparmor.*"mine"/,
    );
    t.diagnostic("the kernel's part is tested where it has AppArmor");
  });

  test("the pod's security context is that of its init", async () => {
    const shared = { namespaceOptions: { pid: POD } };
    const own = await runPod(daemon, {
      linux: {
        securityContext: {
          ...shared,
          runAsUser: { value: 1234n },
          runAsGroup: { value: 4321n },
          supplementalGroups: [55n],
          seccomp: { profileType: cri.SecurityProfile_ProfileType.RuntimeDefault },
          readonlyRootfs: false,
        },
      },
    });
    const id = await startContainer(daemon, own, SLEEP, { linux: { securityContext: shared } });
    const init = await sh(daemon, id, "cat /proc/1/status");
    assert.match(init, /^Uid:\s1234\s/m);
    assert.match(init, /^Gid:\s4321\s/m);
    assert.match(init, /^Groups:\s55\s*$/m);
    assert.match(init, /^Seccomp:\s2$/m);
    assert.match(init, /^CapEff:\s0+$/m);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: own.id });
  });

  test("stop signals: the request's, else the image's; real-time ones too", async () => {
    const stop = async (more: object, trap: string): Promise<number> => {
      const script = `trap 'exit 42' ${trap}; : >/ready; while :; do sleep 0.05; done`;
      const id = await startContainer(daemon, pod, script, more);
      await sh(daemon, id, "until [ -e /ready ]; do sleep 0.01; done");
      await daemon.client.runtime.stopContainer({ containerId: id, timeout: 60n });
      return (await status(daemon, id)).exitCode;
    };
    assert.equal(await stop({ stopSignal: cri.Signal.SIGUSR1 }, "USR1"), 42);
    assert.equal(await stop({ stopSignal: cri.Signal.SIGRTMINPLUS3 }, "37"), 42);
    const name = "localhost/berth-test/signals:1";
    writeFileSync(`${daemon.dir}/signals.tar`, imageArchive(name, await busyboxFiles(), { StopSignal: "SIGUSR2" }));
    await daemon.load(`${daemon.dir}/signals.tar`);
    assert.equal(await stop({ image: { image: name } }, "USR2"), 42);
    const id = await createContainer(daemon, pod, "true", { image: { image: name } });
    assert.equal((await status(daemon, id)).stopSignal, cri.Signal.SIGUSR2);
  });

  test("terminals and standard input", async () => {
    const id = await startContainer(daemon, pod, "tty; cat >/dev/null; exit 3", { tty: true, stdin: true });
    assert.equal((await status(daemon, id)).state, cri.ContainerState.CONTAINER_RUNNING, "an open stdin is waited for");
    assert.match(await sh(daemon, id, "readlink /proc/1/fd/0"), /\/dev\/(pts\/|console)/);
    const closed = await startContainer(daemon, pod, "cat; exit 4");
    assert.equal((await exited(daemon, closed)).exitCode, 4, "without stdin there is nothing to read");
  });

  test("port mappings: UDP, and one address of the node's alone", async () => {
    const port = await claimPort();
    const ports = await runPod(daemon, {
      portMappings: [
        { protocol: cri.Protocol.TCP, containerPort: 80, hostPort: port, hostIp: "127.0.0.2" },
        { protocol: cri.Protocol.UDP, containerPort: 53, hostPort: port },
      ],
    });
    const id = await startContainer(daemon, ports, "while :; do echo hello | nc -l -p 80; done");
    await sh(daemon, id, "until netstat -ltn 2>/dev/null | grep -q ':80 '; do sleep 0.05; done");
    const dial = (host: string): Promise<string> => {
      const { promise, resolve } = Promise.withResolvers<string>();
      const socket = connect({ host, port });
      socket.once("data", (data) => resolve(data.toString()));
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? ""));
      return promise;
    };
    assert.equal(await dial("127.0.0.2"), "hello\n");
    assert.equal(await dial("127.0.0.1"), "ECONNREFUSED");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: ports.id });
  });

  test("supplementary groups: Merge adds the image's, Strict does not; the pod's are its init's", async () => {
    const name = "localhost/berth-test/groups:1";
    const files = (await busyboxFiles()).map((entry) =>
      entry.path === "etc/group" ? { ...entry, content: Buffer.from("root:x:0:\nextra:x:777:nobody\n") } : entry,
    );
    writeFileSync(`${daemon.dir}/groups.tar`, imageArchive(name, files, {}));
    await daemon.load(`${daemon.dir}/groups.tar`);
    const groups = async (supplementalGroupsPolicy: number): Promise<string> => {
      const more = { runAsUsername: "nobody", supplementalGroups: [9n], supplementalGroupsPolicy };
      const id = await startContainer(daemon, pod, SLEEP, { image: { image: name }, ...security(more) });
      return (await field(id, "Groups")).trim();
    };
    assert.equal(await groups(cri.SupplementalGroupsPolicy.Merge), "9 777 65534");
    assert.equal(await groups(cri.SupplementalGroupsPolicy.Strict), "9 65534");
  });

  test("lists as streams: the same items, in batches without doubles", async () => {
    const { runtime, images: image } = daemon.client;
    const pods = (await collect(runtime.streamPodSandboxes({}))).flatMap(({ podSandboxes }) => podSandboxes);
    assert.deepEqual(
      pods.map(({ id }) => id),
      (await runtime.listPodSandbox({})).items.map(({ id }) => id),
    );
    const filter = { podSandboxId: pod.id };
    const containers = (await collect(runtime.streamContainers({ filter }))).flatMap((batch) => batch.containers);
    assert.ok(containers.length > 0);
    assert.deepEqual(
      containers.map(({ id }) => id),
      (await runtime.listContainers({ filter })).containers.map(({ id }) => id),
    );
    const images = (await collect(image.streamImages({ filter: { image: { image: IMAGE } } }))).flatMap(
      (batch) => batch.images,
    );
    assert.deepEqual(
      images.map(({ repoTags }) => repoTags),
      [[IMAGE]],
    );
  });

  test("what is verbose, and what a node is told for its own", async () => {
    const { runtime, images: image } = daemon.client;
    await runtime.updateRuntimeConfig({ runtimeConfig: { networkConfig: { podCidr: "10.0.0.0/24" } } });
    assert.equal((await runtime.version({ version: "v1" })).runtimeApiVersion, "v1");
    const verbose = await runtime.status({ verbose: true });
    assert.equal((JSON.parse(verbose.info.config ?? "") as { stateDir: string }).stateDir, daemon.state);
    assert.deepEqual((await runtime.status({})).info, {});
    const shown = await image.imageStatus({ image: { image: IMAGE }, verbose: true });
    assert.match(shown.info.info ?? "", /chainID/);
    const filtered = await image.listImages({ filter: { image: { image: "localhost/none" } } });
    assert.deepEqual(filtered.images, []);
  });

  test("sandboxes and containers for Windows are refused", async () => {
    await assert.rejects(
      daemon.client.runtime.runPodSandbox({ config: sandboxConfig(daemon, { windows: {} }) }),
      refused(codes.INVALID_ARGUMENT, /config\.windows: this node runs Linux/),
    );
    await assert.rejects(
      createContainer(daemon, pod, "true", { windows: {} }),
      refused(codes.INVALID_ARGUMENT, /config\.windows: this node runs Linux/),
    );
  });

  test("groups without a user, and ids that are none, are refused", async () => {
    const bad: [object, RegExp][] = [
      [{ runAsGroup: { value: 5n } }, /run_as_group: set without run_as_user/],
      [{ runAsUser: { value: -1n } }, /run_as_user: -1 is not an id/],
      [{ runAsUser: { value: 1n << 32n } }, /run_as_user: 4294967296 is not an id/],
      [{ supplementalGroups: [-5n] }, /supplemental_groups: -5 is not an id/],
    ];
    for (const [more, message] of bad)
      await assert.rejects(
        createContainer(daemon, pod, "true", security(more)),
        refused(codes.INVALID_ARGUMENT, message),
      );
  });

  test("a log directory is made, and a container of a pod without one writes none", async () => {
    const config = { ...sandboxConfig(daemon), logDirectory: `${daemon.dir}/made/logs` };
    const { podSandboxId } = await daemon.client.runtime.runPodSandbox({ config });
    const id = await startContainer(daemon, { id: podSandboxId, config }, "echo x", { logPath: "a/b.log" });
    await exited(daemon, id);
    assert.match(readFileSync(`${daemon.dir}/made/logs/a/b.log`, "utf8"), / stdout F x\n$/);
    assert.equal(statSync(`${daemon.dir}/made/logs/a/b.log`).mode & 0o7777, 0o640);
    mkdirSync(`${daemon.dir}/none`);
    const silent = { ...sandboxConfig(daemon), logDirectory: "" };
    const other = await daemon.client.runtime.runPodSandbox({ config: silent });
    const without = await startContainer(daemon, { id: other.podSandboxId, config: silent }, "echo x");
    assert.equal((await exited(daemon, without)).logPath, "");
    for (const one of [podSandboxId, other.podSandboxId])
      await daemon.client.runtime.removePodSandbox({ podSandboxId: one });
  });
});
