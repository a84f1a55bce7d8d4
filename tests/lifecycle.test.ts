/** The life of pods and containers through the CRI, as a kubelet and crictl see it. Needs root. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { cri } from "@berth/spec";
import { status as codes } from "@grpc/grpc-js";
import { claimPort } from "./support/claims.ts";
import { TestDaemon, IMAGE, run } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import {
  OWN_PID,
  containerConfig,
  createContainer,
  exited,
  runPod,
  sh,
  startContainer,
  status,
} from "./support/pods.ts";

const READY = 0;
const NOTREADY = 1;
const [CREATED, RUNNING, EXITED] = [0, 1, 2];
const TERM_FRIENDLY = "trap 'exit 7' TERM; : >/ready; while :; do sleep 1000 & wait; done";

describe("pods and containers", () => {
  let daemon: TestDaemon;
  before(async () => {
    daemon = await TestDaemon.start();
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  test("Version, Status and RuntimeConfig", async () => {
    const { runtime } = daemon.client;
    const version = await runtime.version({});
    assert.equal(version.runtimeName, "berth");
    assert.equal(version.runtimeApiVersion, "v1");
    const { status: node } = await runtime.status({ verbose: true });
    assert.deepEqual(
      node?.conditions.map(({ type, status }) => [type, status]),
      [
        ["RuntimeReady", true],
        ["NetworkReady", true],
      ],
    );
    assert.equal((await runtime.runtimeConfig({})).linux?.cgroupDriver, 1);
  });

  test("a pod runs, logs, has an address, is exec'd into, stops and is gone", async () => {
    const { runtime } = daemon.client;
    const nothing = await inventory(daemon);
    const pod = await runPod(daemon, { labels: { app: "one" } });
    const { status: sandbox } = await runtime.podSandboxStatus({ podSandboxId: pod.id });
    assert.equal(sandbox?.state, READY);
    const ip = sandbox.network?.ip ?? "";
    assert.match(ip, /^10\.\d+\.\d+\.\d+$/);

    const id = await createContainer(daemon, pod, `echo out; echo err >&2; ${TERM_FRIENDLY}`);
    assert.equal((await status(daemon, id)).state, CREATED);
    await runtime.startContainer({ containerId: id });
    const running = await status(daemon, id);
    assert.equal(running.state, RUNNING);
    assert.ok(running.startedAt >= running.createdAt && running.createdAt > 0n);

    assert.equal((await sh(daemon, id, "hostname")).trim(), pod.config.hostname);
    assert.match(await sh(daemon, id, "ip -4 addr show eth0"), new RegExp(`inet ${ip.replaceAll(".", "\\.")}/24`));
    await run(["busybox", "ping", "-c", "1", "-W", "5", ip]);

    await sh(daemon, id, "until [ -e /ready ]; do sleep 0.01; done");
    await runtime.stopContainer({ containerId: id, timeout: 60n });
    const stopped = await status(daemon, id);
    assert.deepEqual([stopped.state, stopped.exitCode, stopped.reason], [EXITED, 7, "Error"]);
    assert.ok(stopped.finishedAt >= stopped.startedAt);
    const lines = readFileSync(stopped.logPath, "utf8")
      .split("\n")
      .filter((line) => line !== "");
    assert.deepEqual(lines.map((line) => line.replace(/^\S+ /, "")).sort(), ["stderr F err", "stdout F out"]);
    for (const line of lines) assert.match(line, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) /);

    await runtime.removeContainer({ containerId: id });
    await runtime.stopPodSandbox({ podSandboxId: pod.id });
    assert.equal((await runtime.podSandboxStatus({ podSandboxId: pod.id })).status?.state, NOTREADY);
    await runtime.removePodSandbox({ podSandboxId: pod.id });
    assert.deepEqual((await runtime.listPodSandbox({})).items, []);
    await assertNothingLeft(daemon, nothing);
  });

  test("Stop and Remove are idempotent, for what never existed too", async () => {
    const { runtime } = daemon.client;
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, TERM_FRIENDLY);
    for (let i = 0; i < 2; i++) await runtime.stopContainer({ containerId: id, timeout: 5n });
    for (let i = 0; i < 2; i++) await runtime.removeContainer({ containerId: id });
    for (let i = 0; i < 2; i++) await runtime.stopPodSandbox({ podSandboxId: pod.id });
    for (let i = 0; i < 2; i++) await runtime.removePodSandbox({ podSandboxId: pod.id });
    await runtime.stopContainer({ containerId: "feed".repeat(16), timeout: 0n });
    await runtime.removePodSandbox({ podSandboxId: "feed".repeat(16) });
  });

  test("a container that ignores TERM is killed after its grace period, and not before", async () => {
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, "trap '' TERM; while :; do sleep 1000; done");
    await sh(daemon, id, "true");
    const from = performance.now();
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 1n });
    const took = performance.now() - from;
    assert.ok(took >= 990 && took < 60_000, `stopped after ${took} ms`);
    assert.equal((await status(daemon, id)).exitCode, 137);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("a name that is taken answers AlreadyExists with the id that has it", async () => {
    const pod = await runPod(daemon);
    await assert.rejects(
      daemon.client.runtime.runPodSandbox({ config: pod.config }),
      (error: Error & { code: number }) => {
        assert.equal(error.code, codes.ALREADY_EXISTS);
        assert.ok(error.message.includes(pod.id));
        return true;
      },
    );
    const config = containerConfig("true");
    const { containerId } = await daemon.client.runtime.createContainer({
      podSandboxId: pod.id,
      config,
      sandboxConfig: pod.config,
    });
    await assert.rejects(
      daemon.client.runtime.createContainer({ podSandboxId: pod.id, config, sandboxConfig: pod.config }),
      (error: Error & { code: number }) => {
        assert.equal(error.code, codes.ALREADY_EXISTS);
        assert.ok(error.message.includes(containerId));
        return true;
      },
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    const again = await daemon.client.runtime.runPodSandbox({ config: pod.config });
    await daemon.client.runtime.removePodSandbox({ podSandboxId: again.podSandboxId });
  });

  test("ids are found by an unambiguous prefix, and unknown ones answer NotFound", async () => {
    const { runtime } = daemon.client;
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, TERM_FRIENDLY);
    assert.equal((await runtime.podSandboxStatus({ podSandboxId: pod.id.slice(0, 13) })).status?.id, pod.id);
    assert.equal((await runtime.containerStatus({ containerId: id.slice(0, 13) })).status?.id, id);
    const unknown = "feed".repeat(16);
    const calls: Record<string, () => Promise<unknown>> = {
      podSandboxStatus: () => runtime.podSandboxStatus({ podSandboxId: unknown }),
      createContainer: () =>
        runtime.createContainer({ podSandboxId: unknown, config: containerConfig("true"), sandboxConfig: {} }),
      startContainer: () => runtime.startContainer({ containerId: unknown }),
      containerStatus: () => runtime.containerStatus({ containerId: unknown }),
      execSync: () => runtime.execSync({ containerId: unknown, cmd: ["true"] }),
      exec: () => runtime.exec({ containerId: unknown, cmd: ["true"], stdout: true }),
      attach: () => runtime.attach({ containerId: unknown, stdout: true }),
      reopenContainerLog: () => runtime.reopenContainerLog({ containerId: unknown }),
      containerStats: () => runtime.containerStats({ containerId: unknown }),
      updateContainerResources: () =>
        runtime.updateContainerResources({ containerId: unknown, linux: { cpuShares: 2n } }),
    };
    for (const [name, call] of Object.entries(calls)) {
      await assert.rejects(call(), (error: Error & { code: number }) => {
        assert.equal(error.code, codes.NOT_FOUND, name);
        assert.ok(error.message.includes(unknown), `${name}: ${error.message}`);
        return true;
      });
    }
    await runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("lists are filtered by id, state, pod and labels", async () => {
    const { runtime } = daemon.client;
    const [one, two] = [await runPod(daemon, { labels: { app: "a" } }), await runPod(daemon, { labels: { app: "b" } })];
    const id = await startContainer(daemon, one, TERM_FRIENDLY, { labels: { tier: "front" } });
    const idle = await createContainer(daemon, two, "true", { labels: { tier: "back" } });
    await runtime.stopPodSandbox({ podSandboxId: two.id });
    const pods = async (filter: object) => (await runtime.listPodSandbox({ filter })).items.map((item) => item.id);
    const containers = async (filter: object) =>
      (await runtime.listContainers({ filter })).containers.map((item) => item.id);
    assert.deepEqual(await pods({ labelSelector: { app: "a" } }), [one.id]);
    assert.deepEqual(await pods({ state: { state: NOTREADY } }), [two.id]);
    assert.deepEqual(await pods({ id: one.id, state: { state: READY } }), [one.id]);
    assert.deepEqual(await containers({ labelSelector: { tier: "front" } }), [id]);
    assert.deepEqual(await containers({ podSandboxId: two.id }), [idle]);
    assert.deepEqual(await containers({ state: { state: RUNNING } }), [id]);
    assert.deepEqual(await containers({ id: "feed" }), []);
    for (const pod of [one, two]) await runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("exit codes, signals and out-of-memory kills are reported", async () => {
    const pod = await runPod(daemon);
    const cases = [
      ["exit 3", 3, "Error"],
      ["true", 0, "Completed"],
    ] as const;
    for (const [script, code, reason] of cases) {
      const { exitCode, reason: said } = await exited(daemon, await startContainer(daemon, pod, script));
      assert.deepEqual([exitCode, said], [code, reason], script);
    }
    const limits = { linux: { securityContext: OWN_PID, resources: { memoryLimitInBytes: 15n << 20n } } };
    const hog = await exited(daemon, await startContainer(daemon, pod, "dd if=/dev/zero of=/dev/null bs=100M", limits));
    assert.deepEqual([hog.exitCode, hog.reason], [137, "OOMKilled"]);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("ExecSync answers both streams, the exit code, and DeadlineExceeded", async () => {
    const { runtime } = daemon.client;
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, TERM_FRIENDLY);
    const both = await runtime.execSync({ containerId: id, cmd: ["/bin/sh", "-c", "echo out; echo err >&2; exit 5"] });
    assert.deepEqual(
      [Buffer.from(both.stdout).toString(), Buffer.from(both.stderr).toString(), both.exitCode],
      ["out\n", "err\n", 5],
    );
    const from = performance.now();
    await assert.rejects(runtime.execSync({ containerId: id, cmd: ["sleep", "300"], timeout: 1n }), {
      code: codes.DEADLINE_EXCEEDED,
    });
    assert.ok(performance.now() - from < 60_000);
    assert.equal((await sh(daemon, id, "ps | grep -c '[s]leep 300' || true")).trim(), "0");
    await assert.rejects(
      runtime.execSync({ containerId: id, cmd: ["no-such-program"] }),
      /no-such-program.*not found|not found.*no-such-program/s,
    );
    await runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("pods with a shared PID namespace see each other's processes, and their PID 1 reaps", async () => {
    const shared = { linux: { securityContext: { namespaceOptions: { pid: cri.NamespaceMode.POD } } } };
    const pod = await runPod(daemon, shared);
    const [a, b] = [
      await startContainer(daemon, pod, "exec sleep 1000", shared),
      await startContainer(daemon, pod, "exec sleep 2000", shared),
    ];
    const seen = await sh(daemon, a, "ps -o pid,args");
    assert.match(seen, /sleep 2000/);
    assert.match(await sh(daemon, b, "cat /proc/1/status"), /^CapEff:\t0+$/m);
    await sh(daemon, a, "(sleep 0.01 &) ; true");
    await daemon.client.runtime.stopContainer({ containerId: a, timeout: 0n });
    assert.equal((await status(daemon, b)).state, RUNNING);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("host network, PID and IPC namespaces are the host's", async () => {
    const host = {
      linux: {
        securityContext: {
          namespaceOptions: {
            network: cri.NamespaceMode.NODE,
            pid: cri.NamespaceMode.NODE,
            ipc: cri.NamespaceMode.NODE,
          },
        },
      },
    };
    const pod = await runPod(daemon, host);
    const id = await startContainer(daemon, pod, TERM_FRIENDLY, host);
    for (const ns of ["net", "pid", "ipc"]) {
      assert.equal(
        (await sh(daemon, id, `readlink /proc/self/ns/${ns}`)).trim(),
        (await run(["readlink", `/proc/self/ns/${ns}`])).trim(),
        ns,
      );
    }
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("a host port reaches the container's port", async () => {
    const port = await claimPort();
    const pod = await runPod(daemon, { portMappings: [{ protocol: 0, containerPort: 80, hostPort: port }] });
    const id = await startContainer(
      daemon,
      pod,
      "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www",
    );
    const { status: sandbox } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
    await sh(daemon, id, "until wget -qO- http://127.0.0.1/; do sleep 0.05; done");
    for (const address of [`127.0.0.1:${port}`, `${sandbox?.network?.ip}:80`]) {
      assert.equal(await (await fetch(`http://${address}/`)).text(), "hello\n", address);
    }
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("images are listed, found by every name, and removed", async () => {
    const { images: image } = daemon.client;
    const { images } = await image.listImages({});
    const found = images.find(({ repoTags }) => repoTags.includes(IMAGE));
    assert.ok(found && found.size > 0n);
    for (const name of [IMAGE, found.id, found.id.replace("sha256:", ""), found.id.slice(7, 20)]) {
      assert.equal((await image.imageStatus({ image: { image: name } })).image?.id, found.id, name);
    }
    assert.equal((await image.imageStatus({ image: { image: "localhost/none:none" } })).image, undefined);
    const { imageFilesystems } = await image.imageFsInfo({});
    assert.ok((imageFilesystems[0]?.usedBytes?.value ?? 0n) > 0n);
  });

  test("two daemons run side by side and touch nothing of each other", async () => {
    const before = await inventory(daemon);
    {
      await using other = await TestDaemon.start();
      const pod = await runPod(other);
      const id = await startContainer(other, pod, TERM_FRIENDLY);
      assert.equal((await status(other, id)).state, RUNNING);
      assert.deepEqual((await daemon.client.runtime.listPodSandbox({})).items, []);
    }
    await assertNothingLeft(daemon, before);
  });

  test("50 pods, some at once, leave nothing", async () => {
    const nothing = await inventory(daemon);
    for (let batch = 0; batch < 10; batch++) {
      await Promise.all(
        Array.from({ length: 5 }, async (_, i) => {
          const pod = await runPod(daemon);
          await startContainer(daemon, pod, i % 2 === 0 ? TERM_FRIENDLY : "exit 0");
          if (i % 3 === 0) await daemon.client.runtime.stopPodSandbox({ podSandboxId: pod.id });
          await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
        }),
      );
    }
    await assertNothingLeft(daemon, nothing);
  });
});
