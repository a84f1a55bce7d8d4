/** berthd dies at any moment: what runs goes on, what was half-made is completed or removed by the next start. Needs root. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import { cri } from "@berth/spec";
import { TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import {
  containerConfig,
  createContainer,
  exited,
  runPod,
  sandboxConfig,
  sh,
  startContainer,
  status,
} from "./support/pods.ts";

const RUNNING = 1;

describe("a stop of berthd (SIGTERM)", () => {
  test("containers run on, log on, and are known to the next one", async () => {
    await using daemon = await TestDaemon.start();
    const pod = await runPod(daemon);
    const counter = await startContainer(daemon, pod, "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done");
    const waiting = await createContainer(daemon, pod, "exit 5");
    const { logPath, startedAt } = await status(daemon, counter);
    const lines = (): number => readFileSync(logPath, "utf8").split("\n").length;
    const began = Date.now();
    await daemon.kill("SIGTERM");
    assert.ok(Date.now() - began < 60_000, "it ends soon");
    const then = lines();
    for (const end = Date.now() + 60_000; lines() < then + 20;) {
      assert.ok(Date.now() < end, "the container still writes");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await daemon.startAgain();
    const after = await status(daemon, counter);
    assert.deepEqual([after.state, after.startedAt], [RUNNING, startedAt]);
    assert.equal(await sh(daemon, counter, "echo again"), "again\n");
    await daemon.client.runtime.startContainer({ containerId: waiting });
    assert.equal((await exited(daemon, waiting)).exitCode, 5);
  });
});

describe("kill -9 of berthd", () => {
  test("containers run on; logs, exit codes and times are whole; exec and stop work again", async () => {
    await using daemon = await TestDaemon.start();
    const nothing = await inventory(daemon);
    const pod = await runPod(daemon);
    const counter = await startContainer(
      daemon,
      pod,
      "trap 'exit 9' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done",
    );
    const brief = await startContainer(daemon, pod, "while [ ! -e /go ]; do sleep 0.01; done; exit 42");
    const waiting = await createContainer(daemon, pod, "exit 5");
    const before = await status(daemon, counter);
    await daemon.kill("SIGKILL");

    // While no daemon runs, one container ends by itself.
    const pid = readFileSync(`${daemon.state}/containers/${brief}/record`, "utf8").match(/^pid (\d+)$/m)?.[1];
    assert.ok(pid);
    writeFileSync(`/proc/${pid}/root/go`, "");
    const ended = Date.now();
    while (!/^phase exited$/m.test(readFileSync(`${daemon.state}/containers/${brief}/record`, "utf8"))) {
      assert.ok(Date.now() - ended < 60_000, "the monitor has recorded no exit");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const recorded = Date.now();
    await new Promise((resolve) => setTimeout(resolve, 200));
    await daemon.startAgain();

    const after = await status(daemon, counter);
    assert.deepEqual([after.state, after.startedAt, after.createdAt], [RUNNING, before.startedAt, before.createdAt]);
    const finished = await status(daemon, brief);
    assert.deepEqual([finished.exitCode, finished.reason], [42, "Error"]);
    const finishedAt = Number(finished.finishedAt / 1_000_000n);
    assert.ok(
      finishedAt >= ended - 1 && finishedAt <= recorded + 1,
      "finished_at is when it ended, not when it was noticed",
    );
    await daemon.client.runtime.startContainer({ containerId: waiting });
    assert.equal((await exited(daemon, waiting)).exitCode, 5);
    assert.equal(await sh(daemon, counter, "echo again"), "again\n");
    await daemon.client.runtime.stopContainer({ containerId: counter, timeout: 10n });
    assert.equal((await status(daemon, counter)).exitCode, 9);
    const numbers = readFileSync((await status(daemon, counter)).logPath, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => Number(line.split("line ")[1]));
    assert.deepEqual(
      numbers,
      numbers.map((_, i) => i),
      "every line is there, in order",
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, nothing);
  });

  const steps: Record<string, readonly string[]> = {
    RunPodSandbox: ["make the namespaces", "write the pod's files and attach the network", "record the pod as ready"],
    CreateContainer: [
      "start the pod's init",
      "prepare the root file system",
      "make the process and park it",
      "connect to its monitor",
      "record the container as created",
    ],
    StartContainer: ["record that the start has begun", "release the process"],
  };
  for (const [operation, names] of Object.entries(steps)) {
    for (const step of names) {
      test(`at "${step}" of ${operation}: the next start completes or removes it`, async () => {
        await using daemon = await TestDaemon.start();
        const nothing = await inventory(daemon);
        await daemon.kill("SIGTERM");
        await daemon.startAgain({ dieAt: `${operation}:${step}` });
        await dieIn(daemon, operation);
        await daemon.gone();
        await daemon.startAgain();
        const { runtime } = daemon.client;
        const { items } = await runtime.listPodSandbox({});
        assert.equal(items.length, operation === "RunPodSandbox" ? 0 : 1);
        const { containers } = await runtime.listContainers({});
        assert.equal(containers.length, operation === "StartContainer" ? 1 : 0);
        for (const { id } of containers) {
          // Created still, and startable: the process had not been released.
          await runtime.startContainer({ containerId: id });
          assert.equal((await exited(daemon, id)).exitCode, 0);
        }
        for (const { id } of items) {
          const again = { id, config: sandboxConfig(daemon) };
          assert.equal((await exited(daemon, await startContainer(daemon, again, "exit 0"))).exitCode, 0);
          await runtime.removePodSandbox({ podSandboxId: id });
        }
        await assertNothingLeft(daemon, nothing);
      });
    }
  }
});

/** Drives the daemon to its death; the call that meets it fails, and only that one may. */
async function dieIn(daemon: TestDaemon, operation: string): Promise<void> {
  const { runtime } = daemon.client;
  const shared = { linux: { securityContext: { namespaceOptions: { pid: cri.NamespaceMode.POD } } } };
  const run = runtime.runPodSandbox({ config: sandboxConfig(daemon, shared) });
  if (operation === "RunPodSandbox") return void (await assert.rejects(run));
  const { podSandboxId } = await run;
  const create = runtime.createContainer({
    podSandboxId,
    config: containerConfig("exit 0", shared),
    sandboxConfig: {},
  });
  if (operation === "CreateContainer") return void (await assert.rejects(create));
  const { containerId } = await create;
  await assert.rejects(runtime.startContainer({ containerId }));
}
