/** A pod in a virtual machine, under TCG: two containers, with all that the CRI can ask of them. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { availableParallelism } from "node:os";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { readRecord } from "@berth/kernel";
import { cri } from "@berth/spec";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { TestDaemon } from "./support/daemon.ts";
import { createContainer, exited, OWN_PID, runPod, sh, startContainer, status } from "./support/pods.ts";
import { sha256, spdy, spdyExec } from "./support/streams.ts";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { endProgram, notReady, vmProblem } from "./support/vm.ts";

const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const problem = vmProblem();

describe("pods in virtual machines", { skip: problem ?? false, timeout: 900_000 }, () => {
  let daemon: TestDaemon;
  let empty: Inventory;
  let config: string;
  before(async () => {
    daemon = await TestDaemon.start();
    await daemon.kill("SIGTERM");
    writeFileSync(
      `${daemon.dir}/kata.toml`,
      "[hypervisor.qemu]\ndefault_memory = 256\ndefault_maxmemory = 1024\n[factory]\nvm_cache_number = 0\n",
    );
    config = `version = 3
[${RUNTIMES}.vm]
runtime_type = "io.containerd.berth-vm.v1"
[${RUNTIMES}.vm.options]
ConfigPath = "${daemon.dir}/kata.toml"
`;
    writeFileSync(daemon.configFile, config);
    await makeGuestImage(`${daemon.root}/vm/image`);
    await daemon.startAgain();
    empty = await inventory(daemon);
  });
  after(async () => {
    await daemon?.[Symbol.asyncDispose]();
  });

  test("two containers of one machine share its network and a volume; logs, exec, exit codes, signals, statistics", async () => {
    const pod = await runPod(daemon, {}, "vm");
    const { status: podStatus } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
    const address = podStatus?.network?.ip ?? "";
    const volume = `${daemon.dir}/volume`;
    mkdirSync(volume);
    writeFileSync(`${volume}/seen`, "from the node\n");
    const mounts = [{ containerPath: "/data", hostPath: volume }];
    const server = await startContainer(
      daemon,
      pod,
      "echo out; echo err >&2; mkdir /www; echo hello >/www/index.html; httpd -p 8080 -h /www; trap 'exit 5' TERM; while :; do sleep 0.1; done",
      { mounts },
    );
    const client = await startContainer(daemon, pod, "while [ ! -e /data/stop ]; do sleep 0.1; done; exit 7", {
      mounts,
    });

    assert.match(await sh(daemon, server, "uname -r"), /-cloud-amd64/);
    assert.equal(await sh(daemon, server, "cat /data/seen"), "from the node\n");
    await sh(daemon, server, "echo from the guest >/data/made");
    assert.equal(readFileSync(`${volume}/made`, "utf8"), "from the guest\n");
    assert.equal(await sh(daemon, client, "cat /data/made"), "from the guest\n");
    assert.equal(await sh(daemon, client, "wget -q -O - http://127.0.0.1:8080/"), "hello\n");
    assert.match(await fetched(address, 8080), /200 OK[^]*hello/);
    assert.equal(await sh(daemon, server, "hostname"), `${pod.config.hostname}\n`);

    // Links lead around in the guest, and not out of the share.
    const secret = `${daemon.dir}/secret`;
    writeFileSync(secret, "of the node\n");
    for (const target of [secret, `../../../../../../../..${secret}`, "/proc/1/root/etc/hostname"])
      await sh(daemon, server, `ln -sf ${target} /data/link; ! grep -q node /data/link`);
    assert.equal(
      await sh(daemon, server, `find / -xdev -name secret 2>/dev/null; ls /run/berth 2>/dev/null; true`),
      "",
    );

    const { stdout, stderr, exitCode } = await daemon.client.runtime.execSync({
      containerId: server,
      cmd: ["/bin/sh", "-c", "echo o; echo e >&2; exit 3"],
      timeout: 20n,
    });
    assert.deepEqual([Buffer.from(stdout).toString(), Buffer.from(stderr).toString(), exitCode], ["o\n", "e\n", 3]);
    await assert.rejects(
      daemon.client.runtime.execSync({ containerId: server, cmd: ["/nothing"], timeout: 20n }),
      /\/nothing: no such file/,
    );
    // A machine grows when one of its containers may use more.
    const memory = async (): Promise<number> =>
      Number(/MemTotal: +(\d+) kB/.exec(await sh(daemon, server, "cat /proc/meminfo"))?.[1]);
    const before = await memory();
    await daemon.client.runtime.updateContainerResources({
      containerId: server,
      linux: { memoryLimitInBytes: BigInt(384 << 20), cpuQuota: 50_000n, cpuPeriod: 100_000n },
    });
    await eventually("the guest has the memory", async () => (await memory()) >= before + (384 << 10));
    assert.equal(await sh(daemon, server, "cat /sys/fs/cgroup/memory.max"), `${384 << 20}\n`);
    const processors = Math.min(2, availableParallelism());
    assert.equal(await sh(daemon, server, "grep -c ^processor /proc/cpuinfo"), `${processors}\n`);

    const { stats } = await daemon.client.runtime.containerStats({ containerId: server });
    assert.ok((stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
    assert.ok((stats?.memory?.workingSetBytes?.value ?? 0n) > 0n);

    await streams(pod.id, server);
    await attached(pod);
    await told(pod.id, client);

    // Another daemon finds the machine and its containers, whose logs went on without one.
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    await sh(daemon, server, "echo after the restart >/proc/1/fd/1");

    await sh(daemon, server, "touch /data/stop");
    assert.equal((await exited(daemon, client)).exitCode, 7);
    await daemon.client.runtime.stopContainer({ containerId: server, timeout: 20n });
    const ended = await status(daemon, server);
    assert.equal(ended.exitCode, 5);
    const log = readFileSync(ended.logPath, "utf8");
    for (const line of [/stdout F out\n/, /stderr F err\n/, /stdout F after the restart\n/]) assert.match(log, line);

    // What serves its root file systems ends while there is no berthd.
    const last = await startContainer(daemon, pod, "sleep 1000");
    await daemon.kill("SIGKILL");
    await endProgram(daemon, pod.id, "roots");
    await daemon.startAgain();
    assert.equal((await exited(daemon, last)).exitCode, 137);
    await notReady(daemon, pod.id);
    assert.match(daemon.log, /roots (ended with status \d+|is gone).*virtual machine cannot be reached/);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });

  /** Exec with input and with a terminal, and a connection to a port of the pod's. */
  async function streams(podSandboxId: string, containerId: string): Promise<void> {
    const execUrl = async (script: string, tty: boolean): Promise<string> =>
      (
        await daemon.client.runtime.exec({
          containerId,
          cmd: ["/bin/sh", "-c", script],
          stdin: true,
          stdout: true,
          stderr: !tty,
          tty,
        })
      ).url;
    const data = randomBytes(1 << 20);
    const piped = await spdyExec(await execUrl("cat; echo end >&2; exit 4", false), { stdin: true });
    piped.stdin?.end(data);
    assert.equal(sha256(await piped.stdout), sha256(data));
    assert.equal(String(await piped.stderr), "end\n");
    assert.match(await piped.status, /"message":"4"/);

    const typed = await spdyExec(await execUrl("stty size; read line; echo got $line; tty; exit 6", true), {
      stdin: true,
      tty: true,
    });
    typed.stdin?.write("word\n");
    const said = String(await typed.stdout);
    assert.match(said, /got word\r\n\/dev\/pts\/\d+\r\n/);
    assert.match(await typed.status, /"message":"6"/);

    const { url } = await daemon.client.runtime.portForward({ podSandboxId, port: [8080] });
    const connection = await spdy(url, ["portforward.k8s.io"]);
    const open = (type: string) =>
      connection.open(
        new Map([
          ["streamtype", type],
          ["port", "8080"],
          ["requestid", "0"],
        ]),
      );
    const error = await open("error");
    error.end();
    const stream = await open("data");
    stream.end("GET / HTTP/1.0\r\n\r\n");
    assert.match(String(await buffer(stream)), /200 OK[^]*hello/);
    connection.socket.destroy();
  }

  /** Attach, to a container's streams and to its terminal. */
  async function attached(pod: Awaited<ReturnType<typeof runPod>>): Promise<void> {
    const { runtime } = daemon.client;
    const fed = await startContainer(daemon, pod, "cat; echo end >&2; exit 4", { stdin: true, stdinOnce: true });
    const want = { stdin: true, stdout: true };
    const plain = await spdyExec((await runtime.attach({ containerId: fed, ...want, stderr: true })).url, want);
    plain.stdin?.end("typed\n");
    assert.equal(String(await plain.stdout), "typed\n");
    assert.equal(String(await plain.stderr), "end\n");
    assert.equal((await exited(daemon, fed)).exitCode, 4);
    const script = `until [ "$(stty size)" = "31 91" ]; do sleep 0.02; done; read line; echo got $line; exit 5`;
    const screen = await startContainer(daemon, pod, script, { tty: true, stdin: true });
    const onScreen = { ...want, tty: true };
    const typed = await spdyExec((await runtime.attach({ containerId: screen, ...onScreen })).url, onScreen);
    typed.resize?.write('{"Width":91,"Height":31}\n');
    typed.stdin?.write("word\n");
    assert.match(String(await typed.stdout), /got word\r\n/);
    assert.equal((await exited(daemon, screen)).exitCode, 5);
  }

  /** What lists tell of a pod in a machine, and what its kubelet changes of it. */
  async function told(podSandboxId: string, containerId: string): Promise<void> {
    const { runtime } = daemon.client;
    const { stats } = await runtime.listContainerStats({ filter: { podSandboxId, id: containerId } });
    assert.ok((stats[0]?.memory?.workingSetBytes?.value ?? 0n) > 0n);
    const { stats: one } = await runtime.podSandboxStats({ podSandboxId });
    const { stats: all } = await runtime.listPodSandboxStats({ filter: { id: podSandboxId } });
    for (const linux of [one?.linux, all[0]?.linux]) {
      assert.ok(linux);
      assert.ok(linux.containers.some(({ attributes }) => attributes?.id === containerId));
      assert.ok((linux.memory?.usageBytes?.value ?? 0n) > 0n);
      assert.ok((linux.network?.defaultInterface?.rxBytes?.value ?? 0n) > 0n);
    }
    await runtime.updatePodSandboxResources({ podSandboxId, resources: { cpuShares: 512n } });
    const { logPath } = await status(daemon, containerId);
    renameSync(logPath, `${logPath}.1`);
    await runtime.reopenContainerLog({ containerId });
    await sh(daemon, containerId, "echo anew >/proc/1/fd/1");
    await eventually("the new log has it", () =>
      Promise.resolve(/stdout F anew\n/.test(readFileSync(logPath, "utf8"))),
    );
  }

  test("a machine that is killed is a dead pod at once, with nothing of it left", async () => {
    const pod = await runPod(daemon, {}, "vm");
    const created = await createContainer(daemon, pod, "true");
    await assert.rejects(
      startContainer(daemon, pod, "true", { command: ["/no/such/program"] }),
      /\/no\/such\/program: no such file/,
    );
    const eater = await startContainer(daemon, pod, "head -c 100m /dev/zero | tail", {
      linux: {
        securityContext: OWN_PID,
        resources: { memoryLimitInBytes: BigInt(16 << 20), memorySwapLimitInBytes: BigInt(16 << 20) },
      },
    });
    const eaten = await exited(daemon, eater);
    assert.equal(eaten.reason, "OOMKilled");
    const id = await startContainer(daemon, pod, "sleep 1000");
    const record = await readRecord(`${daemon.state}/vm/${pod.id.slice(0, 20)}/hypervisor`);
    assert.ok(record);
    process.kill(record.pid, "SIGKILL");
    assert.equal((await exited(daemon, id)).exitCode, 137);
    await notReady(daemon, pod.id);
    assert.equal((await exited(daemon, created)).exitCode, 137);
    await assert.rejects(sh(daemon, id, "true"), /is not running/);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });

  test("a machine that hangs does not keep its pod", async () => {
    const pod = await runPod(daemon, {}, "vm");
    const id = await startContainer(daemon, pod, "sleep 1000");
    const record = await readRecord(`${daemon.state}/vm/${pod.id.slice(0, 20)}/hypervisor`);
    assert.ok(record);
    process.kill(record.pid, "SIGSTOP");
    await daemon.client.runtime.stopPodSandbox({ podSandboxId: pod.id });
    assert.equal((await status(daemon, id)).exitCode, 137);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });

  test("what a machine cannot be is refused by name", async () => {
    const refused: readonly [Parameters<typeof runPod>[1], RegExp][] = [
      [
        { linux: { securityContext: { namespaceOptions: { ipc: cri.NamespaceMode.NODE } } } },
        /namespace_options\.ipc: a virtual machine cannot share the node's memory segments/,
      ],
      [
        { linux: { securityContext: { namespaceOptions: { network: cri.NamespaceMode.NODE } } } },
        /namespace_options\.network: a virtual machine cannot be on the node's network/,
      ],
      [
        { annotations: { "io.katacontainers.config.hypervisor.machine_type": "pc" } },
        /machine_type: not allowed; the configuration's enable_annotations must name it/,
      ],
    ];
    for (const [more, words] of refused) await assert.rejects(runPod(daemon, more, "vm"), words);
    await assertNothingLeft(daemon, empty);
  });
});

/** Over a connection from the node to the pod's address. */
function fetched(host: string, port: number): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = createConnection({ host, port }, () => socket.write("GET / HTTP/1.0\r\n\r\n"));
  let text = "";
  socket.on("data", (chunk) => (text += chunk.toString()));
  socket.on("error", reject);
  socket.on("close", () => resolve(text));
  return promise;
}

async function eventually(what: string, isSo: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 60_000; !(await isSo()); await new Promise((resolve) => setTimeout(resolve, 20)))
    if (Date.now() > end) throw new Error(`not within a minute: ${what}`);
}
