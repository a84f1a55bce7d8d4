/** Debian's containerd runs berth's containers by runtime_type alone: `ctr run --runtime io.containerd.berth.v2`, and its CRI. Needs root. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { packJson, TaskService } from "@berth/shim";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { Containerd, IMAGE, type Ran, until, whyNoContainerd } from "./support/containerd.ts";

const RUNTIME = "io.containerd.berth.v2";
/** namespaces.network of the CRI: the node's, so that no CNI is asked. */
const NODE = 2;

const why = whyNoContainerd();
describe("containerd with berth's shim", { skip: why ?? false }, () => {
  const peer = new Containerd({ runtimes: { berth: `runtime_type = "${RUNTIME}"` } });
  before(async () => {
    if (why !== undefined) return;
    await peer.start();
    await peer.load();
  });
  after(async () => {
    if (why === undefined) await peer.end();
  });

  const create = (id: string, script: string, ...more: string[]): string =>
    peer.does(
      "ctr",
      "run",
      "-d",
      "--snapshotter",
      "native",
      "--runtime",
      RUNTIME,
      ...more,
      IMAGE,
      id,
      "sh",
      "-c",
      script,
    );
  const runs = (...words: string[]): Ran =>
    peer.ctr("run", "--rm", "--snapshotter", "native", "--runtime", RUNTIME, IMAGE, ...words);

  async function removed(id: string): Promise<void> {
    peer.ctr("task", "kill", "-s", "SIGKILL", id);
    await until(`${id} has ended`, () => peer.taskState(id) !== "RUNNING");
    if (peer.taskState(id) !== undefined) peer.ctr("task", "delete", id);
    peer.does("ctr", "containers", "delete", id);
    await nothingLeft();
  }

  async function nothingLeft(): Promise<void> {
    await until("the shims have ended", () => peer.shims().length === 0);
    await until("nothing is left of them", () => peer.left().length === 0);
  }

  test("ctr run: output, exit code, terminal, a program that is not there", async () => {
    const plain = runs("plain", "sh", "-c", "echo out; echo err >&2; exit 7");
    assert.deepEqual([plain.stdout, plain.status], ["out\n", 7]);
    assert.match(plain.stderr, /^err\n/);
    const missing = runs("missing", "/no/such/program");
    assert.equal(missing.status, 1);
    assert.match(missing.stderr, /no such file or directory/);
    const args = ["run", "--rm", "-t", "--snapshotter", "native", "--runtime", RUNTIME, IMAGE, "tty"];
    // One that ends while ctr still sets its own terminal up: packages/shim/test/last-word.
    const tty = peer.typed("ctr", "", ...args, "sh", "-c", "tty; sleep 0.5; exit 3");
    assert.match(tty.stdout, /\/dev\/pts\/0/);
    assert.equal(tty.status, 3);
    await nothingLeft();
  });

  test("ctr task: exec with and without a terminal, input, pause, metrics, ps, kill, delete, and the events of it", async () => {
    using events = await peer.listen();
    // A part of it: the rest lives on.
    const greedy = "(x=a; while :; do x=$x$x; done); while :; do sleep 0.05; done";
    create("greedy", greedy, "--memory-limit", String(15 << 20));
    await until("the event oom is told", () => events.told("oom"));
    assert.equal(peer.taskState("greedy"), "RUNNING");
    await removed("greedy");
    create("jobs", "trap 'exit 9' TERM; while :; do sleep 0.05; done");
    const exec = (id: string, ...words: string[]): Ran => peer.ctr("task", "exec", "--exec-id", id, "jobs", ...words);
    const plain = exec("e1", "sh", "-c", "echo o; echo e >&2; exit 4");
    assert.deepEqual([plain.stdout, plain.status], ["o\n", 4]);
    const fed = peer.fed("ctr", "typed\n", "task", "exec", "--exec-id", "e2", "jobs", "cat");
    assert.deepEqual([fed.stdout, fed.status], ["typed\n", 0]);
    const tty = peer.typed("ctr", "", "task", "exec", "-t", "--exec-id", "e3", "jobs", "sh", "-c", "tty; exit 6");
    assert.match(tty.stdout, /\/dev\/pts\/0/);
    assert.equal(tty.status, 6);
    peer.does("ctr", "task", "pause", "jobs");
    assert.equal(peer.taskState("jobs"), "PAUSED");
    peer.does("ctr", "task", "resume", "jobs");
    assert.equal(peer.taskState("jobs"), "RUNNING");
    assert.match(peer.does("ctr", "task", "metrics", "jobs"), /memory\.usage_in_bytes\s+[1-9]|memory\.usage\s+[1-9]/);
    assert.match(peer.does("ctr", "task", "ps", "jobs"), /^\d+\s+-$/m);
    peer.does("ctr", "task", "kill", "-s", "SIGTERM", "jobs");
    await until("it has ended", () => peer.taskState("jobs") === "STOPPED");
    assert.match(peer.ctr("task", "delete", "jobs").stderr, /exit code 9/);
    for (const topic of ["create", "start", "exec-added", "exec-started", "paused", "resumed", "exit", "delete"])
      await until(`the event ${topic} is told`, () => events.told(topic));
    await removed("jobs");
  });

  test("ctr task attach: to a container's streams, and to its terminal", async () => {
    create("fed", "read line; echo got $line; echo bad >&2; exit 4");
    const plain = peer.fed("ctr", "word\n", "task", "attach", "fed");
    assert.deepEqual([plain.stdout, plain.status], ["got word\n", 4]);
    assert.match(plain.stderr, /^bad\n/);
    peer.does("ctr", "containers", "delete", "fed");
    const args = ["run", "-d", "-t", "--snapshotter", "native", "--runtime", RUNTIME, IMAGE, "screen"];
    assert.equal(peer.typed("ctr", "", ...args, "sh", "-c", "read line; echo got $line; tty; exit 5").status, 0);
    const screen = peer.typed("ctr", "word\n", "task", "attach", "screen");
    assert.match(screen.stdout, /got word\r+\n\/dev\/pts\/0\r+\n/);
    assert.equal(screen.status, 5);
    peer.does("ctr", "containers", "delete", "screen");
    await nothingLeft();
  });

  test("ctr task checkpoint: where criu works here, and else refused with its reason", async () => {
    create("kept", "while :; do sleep 0.05; done");
    const images = join(peer.directory, "images");
    const { status, stderr } = peer.ctr("task", "checkpoint", "--image-path", images, "kept");
    if (spawnSync("criu", ["check"]).status === 0) {
      assert.deepEqual([status, stderr], [0, ""]);
      assert.ok(existsSync(join(images, "inventory.img")));
    } else assert.match(stderr, /checkpoints need criu, /);
    assert.equal(peer.taskState("kept"), "RUNNING");
    await removed("kept");
  });

  test("the Task API's refusals, and what ctr has no command for: update, sizes, the API's third version", async () => {
    create("api", "while :; do sleep 0.05; done", "--memory-limit", String(64 << 20));
    const address = peer.address("api");
    for (const version of [2, 3] as const) {
      const service = await TaskService.connect({ address, version }, peer.namespace);
      const refused = (code: number) => (error: unknown) => error instanceof TtrpcError && error.code === code;
      await assert.rejects(service.call("state", { id: "other" }), refused(CODE.notFound));
      await assert.rejects(service.call("delete", { id: "api" }), refused(CODE.failedPrecondition));
      await assert.rejects(service.call("start", { id: "api" }), refused(CODE.failedPrecondition));
      await assert.rejects(service.call("kill", { id: "api", execId: "no", signal: 15 }), refused(CODE.notFound));
      await assert.rejects(
        service.call("resizePty", { id: "api", width: 1, height: 1 }),
        refused(CODE.failedPrecondition),
      );
      await service.call("update", {
        id: "api",
        resources: packJson("LinuxResources", { memory: { limit: (48 << 20) + version * 4096 } }),
      });
      const { stdout } = peer.ctr("task", "metrics", "api");
      assert.match(
        stdout,
        new RegExp(
          `limit(_in_bytes)?\\s+${(48 << 20) + version * 4096}\\b|usage_limit\\s+${(48 << 20) + version * 4096}\\b`,
        ),
      );
      const { shimPid } = await service.call("connect", { id: "api" });
      assert.deepEqual([shimPid], peer.shims());
      // One that holds a container stays.
      await service.call("shutdown", { id: "api" });
      service.close();
    }
    assert.equal(peer.taskState("api"), "RUNNING");
    await removed("api");
  });

  test("containerd is killed and started again: the container runs on, and all works as before", async () => {
    create("again", "while :; do sleep 0.05; [ -e /stop ] && exit 5; done");
    const before = peer.shims();
    await peer.kill("SIGKILL");
    await peer.start();
    assert.deepEqual(peer.shims(), before);
    assert.equal(peer.taskState("again"), "RUNNING");
    assert.equal(peer.ctr("task", "exec", "--exec-id", "e", "again", "echo", "there").stdout, "there\n");
    peer.does("ctr", "task", "exec", "--exec-id", "f", "again", "touch", "/stop");
    await until("it has ended", () => peer.taskState("again") === "STOPPED");
    assert.match(peer.ctr("task", "delete", "again").stderr, /exit code 5/);
    await removed("again");
  });

  test("the shim is killed: containerd finds the container dead, and nothing of it is left", async () => {
    create("orphan", "sleep 1000");
    const [pid = 0] = peer.does("ctr", "task", "ps", "orphan").match(/^\d+/m)?.map(Number) ?? [];
    for (const shim of peer.shims()) process.kill(shim, "SIGKILL");
    await until("containerd has noticed", () => peer.taskState("orphan") !== "RUNNING");
    await until("its process has ended", () => !existsSync(`/proc/${pid}`));
    await removed("orphan");
  });

  test("containerd's CRI: a pod of two containers by one shim, over a restart", async () => {
    const name = peer.namespace;
    const sandbox = peer.file("pod", {
      metadata: { name, namespace: "default", uid: name, attempt: 0 },
      log_directory: join(peer.directory, "logs"),
      linux: { cgroup_parent: `/${name}`, security_context: { namespace_options: { network: NODE } } },
    });
    const pod = peer.does("crictl", "runp", sandbox);
    const container = (word: string, script: string, more: object = {}): string => {
      const config = peer.file(word, {
        metadata: { name: word },
        image: { image: IMAGE },
        command: ["/bin/sh", "-c", script],
        log_path: `${word}.log`,
        linux: { resources: { memory_limit_in_bytes: 64 << 20, oom_score_adj: 500 } },
        ...more,
      });
      return peer.does("crictl", "create", pod, config, sandbox);
    };
    const stateOf = (id: string) =>
      (JSON.parse(peer.does("crictl", "inspect", id)) as { status: { state: string; exitCode: number } }).status;
    const first = container("first", "trap 'exit 3' TERM; echo up; while :; do /bin/sleep 0.1; done");
    const second = container("second", "while :; do /bin/sleep 0.1; done");
    const fed = container("fed", "cat; exit 6", { stdin: true, stdin_once: true });
    assert.equal(stateOf(first).state, "CONTAINER_CREATED");
    for (const id of [first, second, fed]) peer.does("crictl", "start", id);
    assert.equal(stateOf(first).state, "CONTAINER_RUNNING");
    assert.equal(peer.shims().length, 1, "one shim holds the pod and its containers");
    assert.equal(peer.does("crictl", "exec", "-s", first, "/bin/id", "-u"), "0");
    assert.notEqual(peer.crictl("exec", "-s", first, "/bin/sh", "-c", "exit 4").status, 0);
    // containerd kills what it could not start, which must not be the container.
    assert.match(peer.crictl("exec", "-s", first, "/no/such/program").stderr, /no such file or directory/);
    assert.equal(stateOf(first).state, "CONTAINER_RUNNING");
    assert.equal(peer.fed("crictl", "typed\n", "exec", "-i", first, "/bin/cat").stdout, "typed\n");
    assert.match(peer.typed("crictl", "", "exec", "-i", "-t", first, "/bin/tty").stdout, /\/dev\/pts\/\d/);
    assert.equal(peer.fed("crictl", "typed\n", "attach", "-i", fed).stdout, "typed\n");
    await until("its input has ended", () => stateOf(fed).exitCode === 6);
    await until("the log has its line", () => peer.crictl("logs", first).stdout === "up\n");
    peer.does("crictl", "update", "--memory", String(96 << 20), first);
    assert.match(peer.does("crictl", "stats", "-o", "json"), new RegExp(first));
    await peer.kill("SIGKILL");
    await peer.start();
    await until("containerd knows it again", () => stateOf(first).state === "CONTAINER_RUNNING");
    assert.equal(peer.does("crictl", "exec", "-s", first, "/bin/echo", "again"), "again");
    peer.does("crictl", "stop", "--timeout", "10", first);
    assert.deepEqual([stateOf(first).state, stateOf(first).exitCode], ["CONTAINER_EXITED", 3]);
    peer.does("crictl", "rm", first);
    peer.does("crictl", "stopp", pod);
    peer.does("crictl", "rmp", pod);
    await nothingLeft();
  });
});
