/** Runtime handlers with a shim (shim v2): Debian's containerd-shim-runc-v2 makes and holds berthd's pods, over a restart too. */
import assert from "node:assert/strict";
import { existsSync, globSync, mkdirSync, readFileSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { cri } from "@berth/spec";
import { TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { spdyExec } from "./support/streams.ts";
import { createContainer, exited, runPod, sh, startContainer, status } from "./support/pods.ts";

const SHIM = "/usr/bin/containerd-shim-runc-v2";
const RUNNING = 1;
const NOT_READY = cri.PodSandboxState.SANDBOX_NOTREADY;
const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const config = `version = 3
[${RUNTIMES}.shim]
runtime_type = "io.containerd.runc.v2"
runtime_path = "${SHIM}"
[${RUNTIMES}.shim.options]
Root = "@ROOT@"
[${RUNTIMES}.by-path]
runtime_type = "${SHIM}"
[${RUNTIMES}.absent]
runtime_type = "io.containerd.nowhere.v1"
[${RUNTIMES}.nameless]
runtime_type = "runc"
`;

const whyNot = existsSync(SHIM) && process.getuid?.() === 0 ? false : `needs root and ${SHIM}`;
const SHARED_PID = { linux: { securityContext: { namespaceOptions: { pid: cri.NamespaceMode.POD } } } };

/** Processes of the shim's program that work for this daemon. */
function shims(daemon: TestDaemon): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8");
        return argv.includes("containerd-shim-runc-v2") && argv.includes(daemon.state);
      } catch (error) {
        if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
        throw error;
      }
    })
    .map(Number);
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 30_000; !(await holds());) {
    assert.ok(Date.now() < end, `${what}: not within 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe("handlers with a shim", { skip: whyNot }, () => {
  let daemon: TestDaemon;
  let runcRoot = "";
  let empty: Inventory;
  before(async () => {
    // The daemon's directories are made with it; runc's is a name that only this test uses.
    runcRoot = `/run/berth-test-runc-${process.pid}`;
    mkdirSync(runcRoot, { recursive: true });
    daemon = await TestDaemon.start({ config: config.replace("@ROOT@", runcRoot) });
    empty = await inventory(daemon);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    rmSync(runcRoot, { recursive: true, force: true });
  });

  async function gone(): Promise<void> {
    await until("the shims have ended", () => shims(daemon).length === 0);
    const listed = await inventory(daemon);
    // The socket for shims' events stays with the daemon.
    const files = listed.files.filter((name) => name !== "shims.sock.ttrpc");
    assert.deepEqual(files, empty.files);
    await assertNothingLeft(daemon, { ...empty, files: listed.files });
    assert.deepEqual(existsSync(`${runcRoot}/k8s.io`) ? readdirSync(`${runcRoot}/k8s.io`) : [], []);
  }

  test("one that is not there, or no name at all, is told before anything is made", async () => {
    await assert.rejects(
      runPod(daemon, {}, "absent"),
      /"absent" is served by the shim containerd-shim-nowhere-v1, which is not on PATH/,
    );
    await assert.rejects(
      runPod(daemon, {}, "nameless"),
      /"nameless" has runtime_type "runc", which is neither a path nor a name/,
    );
  });

  test("a pod of two containers by one shim: logs, exec, exit codes, statistics, and nothing left", async () => {
    const pod = await runPod(daemon, {}, "shim");
    assert.equal(shims(daemon).length, 1);
    const id = await startContainer(
      daemon,
      pod,
      "echo out; echo err >&2; while :; do sleep 0.05; [ -e /stop ] && exit 7; done",
      { linux: { resources: { memoryLimitInBytes: 64n << 20n } } },
    );
    const second = await startContainer(daemon, pod, "cat; exit 3", { stdin: true, stdinOnce: true });
    assert.equal(shims(daemon).length, 1, "both belong to the pod's shim");
    const { stdout, stderr, exitCode } = await daemon.client.runtime.execSync({
      containerId: id,
      cmd: ["/bin/sh", "-c", "echo o; echo e >&2; exit 3"],
      timeout: 10n,
    });
    assert.deepEqual([String(Buffer.from(stdout)), String(Buffer.from(stderr)), exitCode], ["o\n", "e\n", 3]);
    await assert.rejects(
      daemon.client.runtime.execSync({ containerId: id, cmd: ["/no/such"], timeout: 10n }),
      /shim: .*no such file or directory/,
    );
    await assert.rejects(
      daemon.client.runtime.execSync({ containerId: id, cmd: ["/bin/sleep", "100"], timeout: 1n }),
      /timed out/,
    );
    assert.doesNotMatch(await sh(daemon, id, "ps"), /sleep 100/, "it did not outlive its time");
    const { stats } = await daemon.client.runtime.containerStats({ containerId: id });
    assert.ok((stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
    assert.ok((stats?.memory?.usageBytes?.value ?? 0n) > 0n);
    await daemon.client.runtime.updateContainerResources({
      containerId: id,
      linux: { memoryLimitInBytes: 48n << 20n },
    });
    assert.equal((await status(daemon, id)).resources?.linux?.memoryLimitInBytes, 48n << 20n);
    const limit = await sh(
      daemon,
      id,
      "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true",
    );
    assert.equal(Number.parseInt(limit, 10), 48 << 20);
    await sh(daemon, id, "touch /stop");
    const ended = await exited(daemon, id);
    assert.deepEqual([ended.exitCode, ended.reason], [7, "Error"]);
    assert.match(readFileSync(ended.logPath, "utf8"), /stdout F out\n.*stderr F err\n/);
    assert.equal((await status(daemon, second)).state, RUNNING);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone();
  });

  test("a handler by path; containers that share the pod's PID namespace; StopContainer", async () => {
    const pod = await runPod(daemon, SHARED_PID, "by-path");
    const id = await startContainer(
      daemon,
      pod,
      "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done",
      SHARED_PID,
    );
    assert.match(await sh(daemon, id, "until [ -e /ready ]; do sleep 0.02; done; cat /proc/1/cmdline"), /pause/);
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 20n });
    assert.equal((await status(daemon, id)).exitCode, 5);
    const created = await createContainer(daemon, pod, "true", SHARED_PID);
    await daemon.client.runtime.removeContainer({ containerId: created });
    const stubborn = await startContainer(daemon, pod, "trap '' TERM; while :; do sleep 0.05; done");
    await daemon.client.runtime.stopContainer({ containerId: stubborn, timeout: 0n });
    assert.equal((await status(daemon, stubborn)).exitCode, 137);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone();
  });

  test("terminals: exec with input and sizes, and a container's own that is attached to", async () => {
    const pod = await runPod(daemon, {}, "shim");
    const id = await startContainer(daemon, pod, "stty size; read line; stty size; echo got $line; sleep 1000", {
      tty: true,
      stdin: true,
    });
    const want = { stdin: true, tty: true };
    const streams = { stdout: true, stderr: false, ...want };
    const script =
      "until [ \"$(stty size)\" = '40 120' ]; do sleep 0.02; done; stty size; read line; echo got $line; exit 5";
    const cmd = ["/bin/sh", "-c", script];
    const exec = await spdyExec((await daemon.client.runtime.exec({ containerId: id, cmd, ...streams })).url, want);
    exec.resize?.write('{"Width":120,"Height":40}\n');
    exec.stdin?.write("typed\n");
    const output = String(await exec.stdout);
    assert.match(output, /40 120\r\n/);
    assert.match(output, /got typed\r\n$/);
    assert.match(await exec.status, /"message":"5"/);
    const attached = await spdyExec((await daemon.client.runtime.attach({ containerId: id, ...streams })).url, want);
    attached.resize?.write('{"Width":91,"Height":31}\n');
    const { logPath } = await status(daemon, id);
    await until(
      "the terminal has its size",
      async () => (await sh(daemon, id, "stty size </dev/console")) === "31 91\n",
    );
    attached.stdin?.write("hello\n");
    await until("the log has it", () => readFileSync(logPath, "utf8").includes("got hello"));
    assert.match(readFileSync(logPath, "utf8"), /24 80[^]*31 91/);
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 0n });
    assert.match(String(await attached.stdout), /got hello\r\n/);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone();
  });

  test("exec with input and both outputs: a megabyte comes back whole", async () => {
    const pod = await runPod(daemon, {}, "shim");
    const id = await startContainer(daemon, pod, "sleep 1000");
    const request = {
      containerId: id,
      cmd: ["/bin/sh", "-c", "cat; echo done >&2"],
      stdin: true,
      stdout: true,
      stderr: true,
    };
    const exec = await spdyExec((await daemon.client.runtime.exec(request)).url, { stdin: true });
    const sent = Buffer.alloc(1 << 20, "0123456789abcdef");
    exec.stdin?.end(sent);
    assert.ok((await exec.stdout).equals(sent));
    assert.equal(String(await exec.stderr), "done\n");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone();
  });

  test("a command that cannot be run: in the shim's words", async () => {
    const pod = await runPod(daemon, {}, "shim");
    await assert.rejects(
      startContainer(daemon, pod, "", { command: ["/no/such/program"] }),
      /no such file or directory/,
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone();
  });

  test("killed for memory: OOMKilled", async () => {
    const pod = await runPod(daemon, {}, "shim");
    const id = await startContainer(daemon, pod, "x=a; while :; do x=$x$x; done", {
      linux: { resources: { memoryLimitInBytes: 15n << 20n } },
    });
    const ended = await exited(daemon, id);
    assert.deepEqual([ended.reason, ended.exitCode], ["OOMKilled", 137]);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone();
  });

  test("kill -9 of berthd: the shim, its containers, their logs and exit codes are there for the next", async () => {
    const pod = await runPod(daemon, {}, "shim");
    const counter = await startContainer(daemon, pod, "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done");
    const brief = await startContainer(daemon, pod, "while [ ! -e /go ]; do sleep 0.01; done; exit 42");
    const waiting = await createContainer(daemon, pod, "exit 6");
    const { logPath } = await status(daemon, counter);
    const lines = (): number => readFileSync(logPath, "utf8").split("\n").length;
    const shim = shims(daemon);
    await sh(daemon, brief, "(sleep 0.3; touch /go) >/dev/null 2>&1 &");
    await daemon.kill("SIGKILL");
    const then = lines();
    await until("the container still logs", () => lines() > then + 20);
    await daemon.startAgain();
    assert.deepEqual(shims(daemon), shim);
    assert.equal((await status(daemon, counter)).state, RUNNING);
    assert.equal((await exited(daemon, brief)).exitCode, 42);
    assert.equal(await sh(daemon, counter, "echo again"), "again\n");
    await daemon.client.runtime.startContainer({ containerId: waiting });
    assert.equal((await exited(daemon, waiting)).exitCode, 6);
    assert.notEqual(readlinkSync(`/proc/${shim[0]}/exe`), "");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone();
  });

  test("a shim that dies: the pod is not ready any more, its containers have ended, and all of it can be removed", async () => {
    const pod = await runPod(daemon, {}, "shim");
    const id = await startContainer(daemon, pod, "sleep 1000");
    const sockets = globSync(`${daemon.state}/**/berth-shim.json`).map(
      (file) => (JSON.parse(readFileSync(file, "utf8")) as { address: string }).address,
    );
    assert.ok(sockets.length === 2 && sockets.every((path) => existsSync(path)), String(sockets));
    for (const shim of shims(daemon)) process.kill(shim, "SIGKILL");
    const ended = await exited(daemon, id);
    assert.equal(ended.exitCode, 137);
    await until("the pod is told as dead", async () => {
      const { status: found } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
      return found?.state === NOT_READY;
    });
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await gone();
    assert.ok(!sockets.some((path) => existsSync(path)), String(sockets));
  });
});
