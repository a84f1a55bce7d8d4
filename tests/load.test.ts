/** berthd dies with 100 containers, statistics, events and execs under way: the next one knows the truth, soon. Needs root. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { cri } from "@berth/spec";
import { TestDaemon, run } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { collect, createContainer, runPod, startContainer } from "./support/pods.ts";

const { CONTAINER_CREATED, CONTAINER_EXITED, CONTAINER_RUNNING } = cri.ContainerState;

/** ms; with 100 containers, on a machine that other tests load as they like. Alone it is a few hundred. */
const MOST = 20_000;

test("a restart under load: 100 containers, and their states after it are what is so", async (t) => {
  // As bin/berthd has it: what is compiled in a life that ends by SIGKILL serves the next.
  const compiled = mkdtempSync(join(tmpdir(), "berth-compiled-"));
  t.after(() => rmSync(compiled, { recursive: true, force: true }));
  process.env["NODE_COMPILE_CACHE"] = compiled;
  await using daemon = await TestDaemon.start();
  const nothing = await inventory(daemon);
  const pods = await Promise.all(Array.from({ length: 5 }, () => runPod(daemon)));
  const wanted = new Map<string, cri.ContainerState>();
  await Promise.all(
    pods.map(async (pod) => {
      for (let at = 0; at < 20; at++) {
        if (at === 0) wanted.set(await createContainer(daemon, pod, "true"), CONTAINER_CREATED);
        else if (at === 1) wanted.set(await startContainer(daemon, pod, "sleep 0.3; exit 3"), CONTAINER_EXITED);
        else wanted.set(await startContainer(daemon, pod, "while :; do echo line; sleep 1; done"), CONTAINER_RUNNING);
      }
    }),
  );
  // What is under way when it dies: nobody waits for its end.
  const { runtime } = daemon.client;
  const away = (work: Promise<unknown>): void => void work.catch(() => undefined);
  const [busy] = [...wanted].filter(([, state]) => state === CONTAINER_RUNNING);
  for (let turn = 0; turn < 4; turn++) {
    away(runtime.listContainerStats({}));
    away(runtime.listPodSandboxStats({}));
    away(runtime.execSync({ containerId: busy?.[0] ?? "", cmd: ["sleep", "2"], timeout: 10n }));
  }
  away(collect(runtime.getContainerEvents({})));
  await daemon.kill("SIGKILL");
  assert.ok(readdirSync(compiled, { recursive: true }).length > 100, "what was compiled is there for the next start");
  await new Promise((resolve) => setTimeout(resolve, 500));

  const began = process.hrtime.bigint();
  await daemon.startAgain();
  const { containers } = await daemon.client.runtime.listContainers({});
  const took = Number((process.hrtime.bigint() - began) / 1_000_000n);
  t.diagnostic(`from the process's start to its first list of 100 containers: ${took} ms`);
  assert.ok(took < MOST, `${took} ms`);
  assert.deepEqual(new Map(containers.map(({ id, state }) => [id, state])), wanted);
  const { stats } = await daemon.client.runtime.listContainerStats({});
  assert.equal(stats.length, 90);
  assert.ok(stats.every(({ memory }) => (memory?.usageBytes?.value ?? 0n) > 0n));
  const alive = (await run(["sh", "-c", "ps -eo args | grep -c '[d]o echo line; sleep 1' || true"])).trim();
  assert.ok(Number(alive) >= 90);

  // One that is told to stop leaves them as they are too.
  await daemon.kill("SIGTERM");
  await daemon.startAgain();
  const later = await daemon.client.runtime.listContainers({});
  assert.deepEqual(new Map(later.containers.map(({ id, state }) => [id, state])), wanted);
  await Promise.all(pods.map(({ id }) => daemon.client.runtime.removePodSandbox({ podSandboxId: id })));
  await assertNothingLeft(daemon, nothing);
});
