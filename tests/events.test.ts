/** GetContainerEvents: what happens, once each, in order, also to a client that was away. Needs root. */
import assert from "node:assert/strict";
import { writeFileSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { cri } from "@berth/spec";
import { TestDaemon } from "./support/daemon.ts";
import { createContainer, exited, runPod, startContainer, status } from "./support/pods.ts";

const NAMES: Readonly<Record<number, string>> = { 0: "created", 1: "started", 2: "stopped", 3: "deleted" };

/** A client that collects until told to go. */
class Follower {
  readonly events: cri.ContainerEventResponse[] = [];
  readonly #abort = new AbortController();
  readonly #done: Promise<void>;
  #changed = Promise.withResolvers<void>();

  constructor(daemon: TestDaemon) {
    this.#done = this.#collect(daemon);
  }

  async #collect(daemon: TestDaemon): Promise<void> {
    try {
      for await (const event of daemon.client.runtime.getContainerEvents({}, { signal: this.#abort.signal })) {
        this.events.push(event);
        this.#changed.resolve();
      }
    } catch (error) {
      if (!this.#abort.signal.aborted) throw error;
    }
  }

  /** As "started CONTAINER", without what is not of these ids. */
  of(...ids: string[]): string[] {
    return this.events
      .filter(({ containerId }) => ids.includes(containerId))
      .map(({ containerEventType, containerId }) => `${NAMES[containerEventType]} ${ids.indexOf(containerId)}`);
  }

  async until(condition: () => boolean): Promise<void> {
    const late = setTimeout(() => this.#changed.reject(new Error("the events did not come within a minute")), 60_000);
    while (!condition()) {
      await this.#changed.promise;
      this.#changed = Promise.withResolvers();
    }
    clearTimeout(late);
  }

  async leave(): Promise<void> {
    this.#abort.abort();
    await this.#done;
  }
}

test("events: each once, in order, with the pod and its containers as they were", async () => {
  await using daemon = await TestDaemon.start();
  const follower = new Follower(daemon);
  const pod = await runPod(daemon);
  const a = await startContainer(daemon, pod, "while [ ! -e /go ]; do sleep 0.02; done; exit 3");
  const b = await startContainer(daemon, pod, "true");
  await exited(daemon, b);
  await daemon.client.runtime.removeContainer({ containerId: b });
  const pid = readFileSync(`${daemon.state}/containers/${a}/record`, "utf8").match(/^pid (\d+)$/m)?.[1];
  writeFileSync(`/proc/${pid}/root/go`, "");
  await exited(daemon, a);
  await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  await follower.until(() => follower.of(pod.id).includes("deleted 0"));
  assert.deepEqual(follower.of(pod.id, a, b), [
    "created 0",
    "started 0",
    "created 1",
    "started 1",
    "created 2",
    "started 2",
    "stopped 2",
    "deleted 2",
    "stopped 1",
    "stopped 0",
    "deleted 1",
    "deleted 0",
  ]);
  const times = follower.events.map(({ createdAt }) => createdAt);
  assert.deepEqual(
    times,
    times.toSorted((one, other) => Number(one - other)),
  );
  const [stopped] = follower.events.filter(
    ({ containerId, containerEventType }) => containerId === a && containerEventType === 2,
  );
  assert.equal(stopped?.podSandboxStatus?.metadata?.uid, pod.config.metadata?.uid);
  assert.deepEqual(
    stopped?.containersStatuses.map(({ id, state, exitCode }) => [id, state, exitCode]),
    [[a, cri.ContainerState.CONTAINER_EXITED, 3]],
  );
  await follower.leave();
});

test("events: a client that was away gets what it missed; two clients get the same", async () => {
  await using daemon = await TestDaemon.start();
  const pod = await runPod(daemon);
  const first = new Follower(daemon);
  const a = await startContainer(daemon, pod, "true");
  await first.until(() => first.of(a).includes("stopped 0"));
  assert.deepEqual(first.of(a), ["created 0", "started 0", "stopped 0"]);
  // Longer than the doubt about what was in flight when a stream broke.
  await new Promise((resolve) => setTimeout(resolve, 1100));
  await first.leave();
  const b = await startContainer(daemon, pod, "true");
  await exited(daemon, b);
  const [second, third] = [new Follower(daemon), new Follower(daemon)];
  await daemon.client.runtime.removeContainer({ containerId: b });
  for (const follower of [second, third]) {
    await follower.until(() => follower.of(b).includes("deleted 0"));
    assert.deepEqual(follower.of(b), ["created 0", "started 0", "stopped 0", "deleted 0"]);
    assert.deepEqual(follower.of(a), [], "what the first client has received is not told again");
    await follower.leave();
  }
});

test("events: a restart of berthd ends the stream; the next one tells what happened meanwhile", async () => {
  await using daemon = await TestDaemon.start();
  const pod = await runPod(daemon);
  const lives = await startContainer(daemon, pod, "while :; do sleep 1000; done");
  const dies = await startContainer(daemon, pod, "while [ ! -e /go ]; do sleep 0.02; done; exit 7");
  const made = await createContainer(daemon, pod, "true");
  const pid = readFileSync(`${daemon.state}/containers/${dies}/record`, "utf8").match(/^pid (\d+)$/m)?.[1];
  await daemon.kill("SIGKILL");
  writeFileSync(`/proc/${pid}/root/go`, "");
  while (!/^phase exited$/m.test(readFileSync(`${daemon.state}/containers/${dies}/record`, "utf8")))
    await new Promise((resolve) => setTimeout(resolve, 20));
  await daemon.startAgain();
  const follower = new Follower(daemon);
  await follower.until(() => follower.of(dies).includes("stopped 0"));
  await daemon.client.runtime.startContainer({ containerId: made });
  await follower.until(() => follower.of(made).includes("stopped 0"));
  assert.deepEqual(follower.of(dies, lives, made), ["stopped 0", "started 2", "stopped 2"]);
  assert.equal((await status(daemon, dies)).exitCode, 7);
  await follower.leave();
});
