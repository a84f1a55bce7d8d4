/** Runtime handlers with a BinaryName: the same pods by Debian's runc and crun as by berth itself. */
import { spawnSync } from "node:child_process";
import assert from "node:assert/strict";
import {
  accessSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { after, before, describe, test } from "node:test";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { TestDaemon } from "./support/daemon.ts";
import { createContainer, exited, runPod, sh, startContainer, status } from "./support/pods.ts";

const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const handlers = ["runc-binary", "crun-binary"] as const;
const CONFIG = `version = 3
[${RUNTIMES}.runc-binary]
runtime_type = "io.containerd.runc.v2"
[${RUNTIMES}.runc-binary.options]
BinaryName = "runc"
[${RUNTIMES}.crun-binary.options]
BinaryName = "CRUN"
NoNewKeyring = true
[${RUNTIMES}.absent.options]
BinaryName = "no-such-runtime"
`;

const installed = (name: string): boolean =>
  ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].some((dir) => {
    try {
      accessSync(`${dir}/${name}`);
      return true;
    } catch {
      return false;
    }
  });

/** crun 1.8 refuses a machine with v1 controllers and others in cgroup2; there it is not shown the latter. */
const hybrid = existsSync("/sys/fs/cgroup/unified/cgroup.controllers");
const HIDE = `unshare --mount --propagation slave sh -c 'umount /sys/fs/cgroup/unified; exec crun "$@"' crun`;
const CRUN = `#!/bin/sh\nexec ${hybrid ? HIDE : "crun"} "$@"\n`;

let wrapperDir: string;
let daemon: TestDaemon;
let empty: Inventory;
before(async () => {
  const wrapper = `${mkdtempSync(`${tmpdir()}/berth-crun-`)}/crun`;
  writeFileSync(wrapper, CRUN, { mode: 0o755 });
  daemon = await TestDaemon.start({ config: CONFIG.replace("CRUN", wrapper) });
  wrapperDir = dirname(wrapper);
  for (const handler of handlers) mkdirSync(`${daemon.state}/runtimes/${handler}`, { recursive: true });
  empty = await inventory(daemon);
});
after(async () => {
  await daemon[Symbol.asyncDispose]();
  rmSync(wrapperDir, { recursive: true });
});

test("a binary that is not there is told before anything is made", async () => {
  await assert.rejects(
    runPod(daemon, {}, "absent"),
    /runtime_handler: "absent" names the binary no-such-runtime, which is not on PATH; install it/,
  );
});

test("Status says of each handler what it can do, as its binary says it", async () => {
  const { runtimeHandlers } = await daemon.client.runtime.status({});
  const features = Object.fromEntries(runtimeHandlers.map((handler) => [handler.name, handler.features]));
  assert.equal(features["berth"]?.recursiveReadOnlyMounts, true);
  const said = spawnSync("runc", ["features"], { encoding: "utf8" }).stdout;
  assert.equal(features["runc-binary"]?.recursiveReadOnlyMounts, said.includes('"rro"'));
  const maps = /"idmap":\s*{\s*"enabled":\s*true/.test(said);
  assert.equal(features["runc-binary"]?.userNamespaces, maps && features["runc"]?.userNamespaces);
  assert.equal(features["absent"]?.recursiveReadOnlyMounts, false);
  assert.deepEqual(features[""], features["runc"]);
});

for (const handler of handlers) {
  const program = handler.replace("-binary", "");
  describe(handler, { skip: installed(program) ? false : `${program} is not installed` }, () => {
    test("a container's life: log, exec, exit code, and nothing left", async () => {
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(
        daemon,
        pod,
        "echo out; echo err >&2; while :; do sleep 0.05; [ -e /stop ] && exit 7; done",
      );
      assert.match(await sh(daemon, id, "cat /proc/1/cmdline"), /sh/);
      const { stdout, stderr, exitCode } = await daemon.client.runtime.execSync({
        containerId: id,
        cmd: ["/bin/sh", "-c", "echo o; echo e >&2; exit 3"],
        timeout: 10n,
      });
      assert.equal(Buffer.from(stdout).toString(), "o\n");
      assert.equal(Buffer.from(stderr).toString(), "e\n");
      assert.equal(exitCode, 3);
      await sh(daemon, id, "touch /stop");
      const ended = await exited(daemon, id);
      assert.equal(ended.exitCode, 7);
      assert.equal(ended.reason, "Error");
      assert.match(readFileSync(ended.logPath, "utf8"), /stdout F out\n.*stderr F err\n/);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, empty);
      assert.deepEqual(readdirSync(`${daemon.state}/runtimes/${handler}`), []);
    });

    const hidden =
      hybrid && program === "crun" ? "on this machine this crun is shown a part of the hierarchies" : false;
    test("it was made by that runtime, in the cgroup that berth looks at", { skip: hidden }, async () => {
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(daemon, pod, "sleep 1000");
      assert.deepEqual(readdirSync(`${daemon.state}/runtimes/${handler}`), [id]);
      const { stats } = await daemon.client.runtime.containerStats({ containerId: id });
      assert.ok((stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    });

    test("a created container that is never started, and StopContainer of one that is", async () => {
      const pod = await runPod(daemon, {}, handler);
      const created = await createContainer(daemon, pod, "true");
      await daemon.client.runtime.removeContainer({ containerId: created });
      const id = await startContainer(daemon, pod, "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done");
      await sh(daemon, id, "until [ -e /ready ]; do sleep 0.02; done");
      await daemon.client.runtime.stopContainer({ containerId: id, timeout: 60n });
      assert.equal((await status(daemon, id)).exitCode, 5);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, empty);
    });

    test("a command that cannot be run: the runtime's own words", async () => {
      const pod = await runPod(daemon, {}, handler);
      const attempt = async (): Promise<void> => {
        const id = await createContainer(daemon, pod, "", { command: ["/no/such/program"] });
        await daemon.client.runtime.startContainer({ containerId: id });
      };
      await assert.rejects(attempt, /OCI runtime: .*\/no\/such\/program.*(no such file|not found)/i);
      const id = await startContainer(daemon, pod, "sleep 1000");
      const exec = daemon.client.runtime.execSync({ containerId: id, cmd: ["/no/such/program"], timeout: 10n });
      await assert.rejects(exec, /OCI runtime: .*\/no\/such\/program/);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, empty);
    });

    test("a terminal", async () => {
      const pod = await runPod(daemon, {}, handler);
      const id = await startContainer(daemon, pod, "tty; stty size; sleep 1000", { tty: true, stdin: true });
      const { logPath } = await status(daemon, id);
      for (const end = Date.now() + 60_000; !/24 80/.test(readFileSync(logPath, "utf8")) && Date.now() < end;)
        await new Promise((resolve) => setTimeout(resolve, 20));
      assert.match(readFileSync(logPath, "utf8"), /stdout F \/dev\/(pts\/0|console)\r?\n.*stdout F 24 80/);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    });

    test("a pod's shared PID namespace, and a container that leaves processes behind", async () => {
      const pod = await runPod(daemon, { linux: { securityContext: { namespaceOptions: { pid: 0 } } } }, handler);
      const security = {
        linux: create(cri.LinuxContainerConfigSchema, { securityContext: { namespaceOptions: { pid: 0 } } }),
      };
      const first = await startContainer(daemon, pod, "sleep 1001 & exit 0", security);
      assert.equal((await exited(daemon, first)).exitCode, 0);
      const second = await startContainer(daemon, pod, "sleep 1000", security);
      assert.match(await sh(daemon, second, "cat /proc/1/comm"), /bosun/);
      assert.doesNotMatch(await sh(daemon, second, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), /sleep 1001/);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, empty);
    });

    test("it outlives berthd, which finds it again, and an exit meanwhile", async () => {
      const pod = await runPod(daemon, {}, handler);
      const lives = await startContainer(daemon, pod, "sleep 1000");
      const dies = await startContainer(daemon, pod, "sleep 1; exit 9");
      await daemon.kill("SIGKILL");
      await new Promise((resolve) => setTimeout(resolve, 1500));
      await daemon.startAgain();
      assert.equal(await sh(daemon, lives, "echo here"), "here\n");
      assert.equal((await exited(daemon, dies)).exitCode, 9);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, empty);
    });
  });
}
