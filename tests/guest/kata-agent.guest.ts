/**
 * A pod in a virtual machine whose PID 1 is the real kata-agent, under TCG: what berthd's own guest does in tests/vm.test.ts, by Kata's
 * AgentService. BERTH_KATA_AGENT names the agent, statically linked (kata-containers, src/agent); without it there is nothing to try.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { readRecord } from "@berth/kernel";
import { cri } from "@berth/spec";
import { makeGuestImage } from "../../bench/lib/guest-image.ts";
import { assertNothingLeft, type Inventory, inventory } from "../support/leaks.ts";
import { TestDaemon } from "../support/daemon.ts";
import { exited, OWN_PID, runPod, sh, startContainer, status } from "../support/pods.ts";
import { sha256, spdyExec } from "../support/streams.ts";
import { vmProblem } from "../support/vm.ts";

const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const agent = process.env["BERTH_KATA_AGENT"];
const problem = agent === undefined ? "BERTH_KATA_AGENT does not name a kata-agent" : vmProblem();

describe("pods by the real kata-agent", { skip: problem ?? false, timeout: 900_000 }, () => {
  let daemon: TestDaemon;
  let empty: Inventory;
  before(async () => {
    daemon = await TestDaemon.start();
    await daemon.kill("SIGTERM");
    const image = `${daemon.dir}/kata-image`;
    await makeGuestImage(image, agent);
    writeFileSync(
      `${daemon.dir}/kata.toml`,
      `[hypervisor.qemu]\ndefault_memory = 384\ndefault_maxmemory = 1024\nkernel = "${image}/vmlinuz"\ninitrd = "${image}/initrd"\n` +
        `[agent.kata]\ndial_timeout = 120\n`,
    );
    writeFileSync(
      daemon.configFile,
      `version = 3
[${RUNTIMES}.kata]
runtime_type = "io.containerd.berth-vm.v1"
[${RUNTIMES}.kata.options]
ConfigPath = "${daemon.dir}/kata.toml"
`,
    );
    await daemon.startAgain();
    empty = await inventory(daemon);
  });
  after(async () => {
    await daemon?.[Symbol.asyncDispose]();
  });

  test("two containers share network and a volume; logs, exec, exit codes, signals, statistics, a restart of berthd", async () => {
    const pod = await runPod(daemon, {}, "kata");
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
    assert.equal(await sh(daemon, client, "wget -q -O - http://127.0.0.1:8080/"), "hello\n");
    assert.match(await fetched(address, 8080), /200 OK[^]*hello/);
    assert.equal(await sh(daemon, server, "hostname"), `${pod.config.hostname}\n`);
    assert.match(await sh(daemon, server, "ps"), / httpd /);

    const { stdout, stderr, exitCode } = await daemon.client.runtime.execSync({
      containerId: server,
      cmd: ["/bin/sh", "-c", "echo o; echo e >&2; exit 3"],
      timeout: 20n,
    });
    assert.deepEqual([Buffer.from(stdout).toString(), Buffer.from(stderr).toString(), exitCode], ["o\n", "e\n", 3]);
    const { stats } = await daemon.client.runtime.containerStats({ containerId: server });
    assert.ok((stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
    assert.ok((stats?.memory?.workingSetBytes?.value ?? 0n) > 0n);
    await streams(server);

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
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });

  async function streams(containerId: string): Promise<void> {
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
    const typed = await spdyExec(await execUrl("stty size; read line; echo got $line; exit 6", true), {
      stdin: true,
      tty: true,
    });
    typed.stdin?.write("word\n");
    assert.match(String(await typed.stdout), /24 80\r\n[^]*got word\r\n/);
    assert.match(await typed.status, /"message":"6"/);
  }

  test("a shared PID namespace, a ConfigMap that changes, a kill for memory, a machine that is killed", async () => {
    const shared = { securityContext: { namespaceOptions: { pid: cri.NamespaceMode.POD } } };
    const pod = await runPod(daemon, { linux: shared }, "kata");
    const config = mkdtempSync(`${daemon.dir}/config-`);
    const write = (version: string, text: string): void => {
      mkdirSync(join(config, version));
      writeFileSync(join(config, version, "key"), text);
      symlinkSync(version, join(config, "..new"));
      renameSync(join(config, "..new"), join(config, "..data"));
    };
    write("..1", "first\n");
    symlinkSync("..data/key", join(config, "key"));
    const one = await startContainer(daemon, pod, "exec sleep 1000", { linux: shared });
    const two = await startContainer(daemon, pod, "exec sleep 2000", {
      linux: shared,
      mounts: [{ containerPath: "/config", hostPath: config, readonly: true }],
    });
    assert.match(await sh(daemon, one, "ps"), / \/pause pause\n[^]* sleep 1000\n[^]* sleep 2000\n/);
    assert.equal(await sh(daemon, two, "cat /config/key"), "first\n");
    write("..2", "second\n");
    rmSync(join(config, "..1"), { recursive: true });
    await eventually(
      "the agent brings its copy up to date",
      async () => (await sh(daemon, two, "cat /config/key")) === "second\n",
    );
    unlinkSync(join(config, "key"));

    const eater = await startContainer(daemon, pod, "head -c 100m /dev/zero | tail", {
      linux: {
        securityContext: OWN_PID,
        resources: { memoryLimitInBytes: BigInt(16 << 20), memorySwapLimitInBytes: BigInt(16 << 20) },
      },
    });
    assert.equal((await exited(daemon, eater)).reason, "OOMKilled");

    const record = await readRecord(`${daemon.state}/vm/${pod.id.slice(0, 20)}/hypervisor`);
    assert.ok(record);
    process.kill(record.pid, "SIGKILL");
    assert.equal((await exited(daemon, one)).exitCode, 137);
    await eventually("the pod is not ready", async () => {
      const { status: found } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
      return found?.state === cri.PodSandboxState.SANDBOX_NOTREADY;
    });
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
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
  for (const end = Date.now() + 60_000; !(await isSo()); await new Promise((resolve) => setTimeout(resolve, 50)))
    if (Date.now() > end) throw new Error(`not within a minute: ${what}`);
}
