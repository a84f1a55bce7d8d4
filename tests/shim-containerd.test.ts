/** Debian's containerd runs berth's containers by runtime_type alone: `ctr run --runtime io.containerd.berth.v2`, and its CRI. Needs root. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  globSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { packJson, TaskService } from "@berth/shim";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { imageArchive } from "../scripts/busybox-image.ts";

const BIN = new URL("../bin/", import.meta.url).pathname;
const IMAGE = "localhost/shim:1";
const BUSYBOX = "/bin/busybox";
const APPLETS = ["sh", "sleep", "true", "tty", "id", "echo", "cat", "stty", "ps", "touch", "test"];
const LIMIT_MS = 60_000;
const RUNTIME = "io.containerd.berth.v2";
/** namespaces.network of the CRI: the node's, so that no CNI is asked. */
const NODE = 2;

function whyNot(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!existsSync(BUSYBOX)) return "needs a static /bin/busybox";
  const missing = ["containerd", "ctr", "script"].find((name) => spawnSync("which", [name]).status !== 0);
  return missing === undefined ? undefined : `needs ${missing}`;
}

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A containerd of this test's own, with berth's shim on its PATH. */
class Containerd {
  readonly directory = mkdtempSync(join(tmpdir(), "berth-shim-"));
  readonly #address = join(this.directory, "c.sock");
  readonly #log = join(this.directory, "log");
  #process: ChildProcess | undefined;

  constructor() {
    const cri = `plugins."io.containerd.grpc.v1.cri"`;
    writeFileSync(
      join(this.directory, "config.toml"),
      `version = 2
root = "${this.directory}/root"
state = "${this.directory}/state"
[grpc]
  address = "${this.#address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "${this.directory}/opt"
[${cri}]
  sandbox_image = "${IMAGE}"
  disable_tcp_service = true
  [${cri}.containerd]
    snapshotter = "native"
    default_runtime_name = "berth"
    [${cri}.containerd.runtimes.berth]
      runtime_type = "${RUNTIME}"
  [${cri}.cni]
    conf_dir = "${this.directory}/cni"
`,
    );
  }

  async start(): Promise<void> {
    const command = `exec containerd -c ${this.directory}/config.toml >>${this.#log} 2>&1`;
    const env = { ...process.env, PATH: `${BIN.replace(/\/$/, "")}:${process.env["PATH"] ?? ""}` };
    this.#process = spawn("sh", ["-c", command], { stdio: "ignore", env });
    await until("containerd's CRI answers", () => this.crictl("version").status === 0);
  }

  async load(): Promise<void> {
    const archive = join(this.directory, "image.tar");
    const links = APPLETS.map((name) => ({ path: `bin/${name}`, mode: 0o777, link: "busybox" }));
    const busybox = { path: "bin/busybox", mode: 0o755, content: readFileSync(BUSYBOX) };
    writeFileSync(archive, imageArchive(IMAGE, [busybox, ...links], { Cmd: ["/bin/sleep", "100000"] }));
    for (const namespace of ["default", "k8s.io"])
      this.does("ctr", "-n", namespace, "images", "import", "--snapshotter", "native", archive);
    await until("the image is known", () => this.crictl("images").stdout.includes("localhost/shim"));
  }

  ctr(...args: readonly string[]): Ran {
    return run("ctr", ["--address", this.#address, ...args]);
  }

  /** In a terminal. */
  ctrTty(...args: readonly string[]): Ran {
    const words = ["ctr", "--address", this.#address, ...args].map((word) => `'${word.replaceAll("'", `'\\''`)}'`);
    return run("script", ["-qec", words.join(" "), "/dev/null"]);
  }

  crictl(...args: readonly string[]): Ran {
    const endpoint = `unix://${this.#address}`;
    const own = ["--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "30s"];
    return run(join(BIN, "crictl"), [...own, ...args]);
  }

  /** What must succeed; without the newline. */
  does(program: "ctr" | "crictl", ...args: readonly string[]): string {
    const { status, stdout, stderr } = program === "ctr" ? this.ctr(...args) : this.crictl(...args);
    assert.equal(status, 0, `${program} ${args.join(" ")}: ${stderr}${this.lastWords()}`);
    return stdout.trimEnd();
  }

  lastWords(): string {
    return readFileSync(this.#log, "utf8").split("\n").slice(-8).join("\n");
  }

  /** "RUNNING"; undefined: there is no such task. */
  taskState(id: string): string | undefined {
    return new RegExp(`^${id}\\s+\\d+\\s+(\\w+)`, "m").exec(this.does("ctr", "task", "ls"))?.[1];
  }

  /** The shim of a container, by what it has written in the container's bundle. */
  address(namespace: string, id: string): string {
    const file = join(this.directory, "state/io.containerd.runtime.v2.task", namespace, id, "address");
    return readFileSync(file, "utf8").replace("unix://", "");
  }

  file(name: string, content: object): string {
    const path = join(this.directory, `${name}.json`);
    writeFileSync(path, JSON.stringify(content));
    return path;
  }

  async kill(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const ended = new Promise((resolve) => this.#process?.once("exit", resolve));
    this.#process?.kill(signal);
    await ended;
  }
}

function run(program: string, args: readonly string[]): Ran {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: "utf8", timeout: LIMIT_MS });
  return { status, stdout, stderr };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = Date.now() + LIMIT_MS; !condition();) {
    assert.ok(Date.now() < end, `timed out waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const SHIM_PROGRAM = "packages/shim/src/server/main.ts";

/** Processes of berth's shim that serve containers of this containerd. */
function shims(peer: Containerd): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8");
        return argv.includes(SHIM_PROGRAM) && argv.includes(peer.directory);
      } catch (error) {
        if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
        throw error;
      }
    })
    .map(Number);
}

const why = whyNot();
describe("containerd with berth's shim", { skip: why ?? false }, () => {
  const peer = new Containerd();
  before(async () => {
    if (why !== undefined) return;
    await peer.start();
    await peer.load();
  });
  after(async () => {
    if (why === undefined) await peer.kill("SIGTERM");
    rmSync(peer.directory, { recursive: true, force: true });
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
    await until("its shim has ended", () => shims(peer).length === 0);
  }

  test("ctr run: output, exit code, terminal, a program that is not there", async () => {
    const plain = runs("plain", "sh", "-c", "echo out; echo err >&2; exit 7");
    assert.deepEqual([plain.stdout, plain.status], ["out\n", 7]);
    assert.match(plain.stderr, /^err\n/);
    const missing = runs("missing", "/no/such/program");
    assert.equal(missing.status, 1);
    assert.match(missing.stderr, /no such file or directory/);
    const args = ["run", "--rm", "-t", "--snapshotter", "native", "--runtime", RUNTIME, IMAGE, "tty"];
    // One in a terminal that ends while ctr still sets its own up was once told as 255: docs/compatibility.md.
    const tty = peer.ctrTty(...args, "sh", "-c", "tty; sleep 0.5; exit 3");
    assert.match(tty.stdout, /\/dev\/pts\/0/);
    assert.equal(tty.status, 3);
    await until("their shims have ended", () => shims(peer).length === 0);
  });

  test("ctr task: exec with and without a terminal, input, pause, metrics, ps, kill, delete, and the events of it", async () => {
    const events = join(peer.directory, "events");
    const listener = spawn("sh", ["-c", `exec ctr --address ${join(peer.directory, "c.sock")} events >${events}`]);
    try {
      // It says nothing when it has subscribed: something is made to happen until it hears of it.
      let probe = 0;
      await until("events are heard", () => {
        peer.does("ctr", "namespaces", "label", "default", `probe=${probe++}`);
        return existsSync(events) && readFileSync(events, "utf8") !== "";
      });
      create("jobs", "trap 'exit 9' TERM; while :; do sleep 0.05; done");
      const exec = (id: string, ...words: string[]): Ran => peer.ctr("task", "exec", "--exec-id", id, "jobs", ...words);
      const plain = exec("e1", "sh", "-c", "echo o; echo e >&2; exit 4");
      assert.deepEqual([plain.stdout, plain.status], ["o\n", 4]);
      const words = ["--address", join(peer.directory, "c.sock"), "task", "exec", "--exec-id", "e2", "jobs", "cat"];
      const fed = spawnSync("ctr", words, { input: "typed\n", encoding: "utf8", timeout: LIMIT_MS });
      assert.deepEqual([fed.stdout, fed.status], ["typed\n", 0]);
      const tty = peer.ctrTty("task", "exec", "-t", "--exec-id", "e3", "jobs", "sh", "-c", "tty; exit 6");
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
      const told = (topic: string): boolean => readFileSync(events, "utf8").includes(`/tasks/${topic} `);
      for (const topic of ["create", "start", "exec-added", "exec-started", "paused", "resumed", "exit", "delete"])
        await until(`the event ${topic} is told`, () => told(topic));
      await removed("jobs");
    } finally {
      listener.kill();
    }
  });

  test("the Task API's refusals, and what ctr has no command for: update, sizes, the API's third version", async () => {
    create("api", "while :; do sleep 0.05; done", "--memory-limit", String(64 << 20));
    const address = peer.address("default", "api");
    for (const version of [2, 3] as const) {
      const service = await TaskService.connect({ address, version }, "default");
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
      assert.deepEqual([shimPid], shims(peer));
      // One that holds a container stays.
      await service.call("shutdown", { id: "api" });
      service.close();
    }
    assert.equal(peer.taskState("api"), "RUNNING");
    await removed("api");
  });

  test("containerd is killed and started again: the container runs on, and all works as before", async () => {
    create("again", "while :; do sleep 0.05; [ -e /stop ] && exit 5; done");
    const before = shims(peer);
    await peer.kill("SIGKILL");
    await peer.start();
    assert.deepEqual(shims(peer), before);
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
    for (const shim of shims(peer)) process.kill(shim, "SIGKILL");
    await until("containerd has noticed", () => peer.taskState("orphan") !== "RUNNING");
    await until("its process has ended", () => !existsSync(`/proc/${pid}`));
    await removed("orphan");
  });

  test("containerd's CRI: a pod of two containers by one shim, over a restart", async () => {
    const name = `shim-${process.pid}`;
    const sandbox = peer.file("pod", {
      metadata: { name, namespace: "default", uid: name, attempt: 0 },
      log_directory: join(peer.directory, "logs"),
      linux: { cgroup_parent: `/${name}`, security_context: { namespace_options: { network: NODE } } },
    });
    const pod = peer.does("crictl", "runp", sandbox);
    const container = (word: string, script: string): string => {
      const config = peer.file(word, {
        metadata: { name: word },
        image: { image: IMAGE },
        command: ["/bin/sh", "-c", script],
        log_path: `${word}.log`,
        linux: { resources: { memory_limit_in_bytes: 64 << 20, oom_score_adj: 500 } },
      });
      return peer.does("crictl", "create", pod, config, sandbox);
    };
    const stateOf = (id: string) =>
      (JSON.parse(peer.does("crictl", "inspect", id)) as { status: { state: string; exitCode: number } }).status;
    const first = container("first", "trap 'exit 3' TERM; echo up; while :; do /bin/sleep 0.1; done");
    const second = container("second", "while :; do /bin/sleep 0.1; done");
    assert.equal(stateOf(first).state, "CONTAINER_CREATED");
    for (const id of [first, second]) peer.does("crictl", "start", id);
    assert.equal(stateOf(first).state, "CONTAINER_RUNNING");
    assert.equal(shims(peer).length, 1, "one shim holds the pod and its containers");
    assert.equal(peer.does("crictl", "exec", "-s", first, "/bin/id", "-u"), "0");
    assert.notEqual(peer.crictl("exec", "-s", first, "/bin/sh", "-c", "exit 4").status, 0);
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
    await until("the pod's shim has ended", () => shims(peer).length === 0);
    // A pod's cgroup is the kubelet's to remove: there is nothing in it any more.
    for (const group of globSync(`/sys/fs/cgroup/{,*/}${name}`)) rmdirSync(group);
  });
});
