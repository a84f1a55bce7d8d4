/** berth-runc under the programs that people run runc with: containerd's shim (`ctr --runc-binary`) and podman (`--runtime`). */
import assert from "node:assert/strict";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";

const BERTH_RUNC = new URL("../bin/berth-runc", import.meta.url).pathname;
const BUSYBOX = "/bin/busybox";
const APPLETS = ["sh", "sleep", "true", "tty", "id", "echo", "cat"];
const LIMIT_MS = 60_000;

function whyNot(...programs: readonly string[]): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!existsSync(BUSYBOX)) return "needs a static /bin/busybox";
  const missing = programs.find((name) => spawnSync("which", [name]).status !== 0);
  return missing === undefined ? undefined : `needs ${missing}`;
}

interface Output {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(program: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Output {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: "utf8", env, timeout: LIMIT_MS });
  return { status, stdout, stderr };
}

/**
 * As on a terminal: script(1) gives the program one, and exits as it does. A line is typed once the terminal's name has
 * come: podman and ctr lose the last words of a container that ends before they have looked, with runc too.
 */
async function runOnTerminal(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): Promise<Output> {
  const line = [program, ...args].map((word) => `'${word.replaceAll("'", String.raw`'\''`)}'`).join(" ");
  const child = spawn("script", ["-qec", line, "/dev/null"], { env, timeout: LIMIT_MS, stdio: "pipe" });
  child.stdin.on("error", () => child.stdin.destroy());
  let [stdout, stderr] = ["", ""];
  let isTyped = false;
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
    if (isTyped || !stdout.includes("/dev/pts/")) return;
    isTyped = true;
    child.stdin.write("\n");
  });
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const [status] = (await once(child, "close")) as [number | null];
  return { status, stdout, stderr };
}

function makeRootfs(directory: string): string {
  const rootfs = join(directory, "rootfs");
  mkdirSync(join(rootfs, "bin"), { recursive: true });
  cpSync(BUSYBOX, join(rootfs, "bin", "busybox"));
  for (const applet of APPLETS) symlinkSync("busybox", join(rootfs, "bin", applet));
  return rootfs;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries++) {
    assert.ok(tries < 2000, `timed out waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A containerd of its own, without its CRI. */
class Containerd {
  readonly directory: string;
  readonly rootfs: string;
  readonly #process: ChildProcess;
  readonly #env: NodeJS.ProcessEnv;

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "berth-ctr-"));
    this.rootfs = makeRootfs(this.directory);
    const address = join(this.directory, "c.sock");
    this.#env = { ...process.env, CONTAINERD_ADDRESS: address };
    writeFileSync(
      join(this.directory, "config.toml"),
      `version = 2
root = "${this.directory}/root"
state = "${this.directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "${address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "${this.directory}/opt"
`,
    );
    this.#process = spawn("containerd", ["-c", join(this.directory, "config.toml")], { stdio: "ignore" });
  }

  async ready(): Promise<void> {
    await until("containerd answers", () => this.ctr("version").status === 0);
  }

  ctr(...args: readonly string[]): Output {
    return run("ctr", args, this.#env);
  }

  ctrOnTerminal(...args: readonly string[]): Promise<Output> {
    return runOnTerminal("ctr", args, this.#env);
  }

  status(id: string): string | undefined {
    const line = this.ctr("task", "ls")
      .stdout.split("\n")
      .find((text) => text.startsWith(`${id} `));
    return line?.trim().split(/\s+/)[2];
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill("SIGTERM");
    await ended;
    rmSync(this.directory, { recursive: true, force: true });
  }
}

const noContainerd = whyNot("containerd", "ctr", "script");
describe("containerd", noContainerd === undefined ? {} : { skip: noContainerd }, () => {
  test("runs, execs with and without a terminal, pauses, counts, kills and deletes", async () => {
    const peer = new Containerd();
    try {
      await peer.ready();
      // Another run of this test on the same machine has the same cgroup paths.
      const [once, tty, long, missing] = ["once", "tty", "long", "missing"].map((name) => `${name}-${process.pid}`) as [
        string,
        string,
        string,
        string,
      ];
      const flags = ["--rootfs", "--runc-binary", BERTH_RUNC];
      const first = peer.ctr("run", "--rm", ...flags, peer.rootfs, once, "/bin/sh", "-c", "/bin/echo hello; exit 4");
      assert.deepEqual([first.status, first.stdout], [4, "hello\n"], first.stderr);
      const onTerminal = await peer.ctrOnTerminal(
        "run",
        "--rm",
        "-t",
        ...flags,
        peer.rootfs,
        tty,
        "/bin/sh",
        "-c",
        "/bin/tty; read line; exit 8",
      );
      assert.equal(onTerminal.status, 8);
      assert.match(onTerminal.stdout, /\/dev\/pts\/0/);

      const started = peer.ctr("run", "-d", ...flags, peer.rootfs, long, "/bin/sleep", "1000");
      assert.equal(started.status, 0, started.stderr);
      assert.equal(peer.status(long), "RUNNING");
      const exec = peer.ctr("task", "exec", "--exec-id", "e1", long, "/bin/sh", "-c", "/bin/id -u; exit 3");
      assert.deepEqual([exec.status, exec.stdout], [3, "0\n"], exec.stderr);
      const terminal = await peer.ctrOnTerminal(
        "task",
        "exec",
        "-t",
        "--exec-id",
        "e2",
        long,
        "/bin/sh",
        "-c",
        "/bin/tty; read line; exit 9",
      );
      assert.equal(terminal.status, 9);
      assert.match(terminal.stdout, /\/dev\/pts\/\d+/);
      // Programs that end at once: the shim must get every exit status, none may be reaped by anybody else.
      for (const index of [1, 2, 3])
        assert.equal(peer.ctr("task", "exec", "--exec-id", `q${index}`, long, "/bin/true").status, 0);
      assert.equal(peer.ctr("task", "pause", long).status, 0);
      assert.equal(peer.status(long), "PAUSED");
      assert.equal(peer.ctr("task", "resume", long).status, 0);
      assert.match(peer.ctr("task", "metrics", long).stdout, /memory\.usage_in_bytes|memory\.usage/);
      assert.match(peer.ctr("task", "ps", long).stdout, /^\d+/m);
      assert.equal(peer.ctr("task", "kill", "-s", "KILL", long).status, 0);
      await until("the task has stopped", () => peer.status(long) === "STOPPED");
      peer.ctr("task", "delete", long);
      assert.equal(peer.ctr("container", "rm", long).status, 0);
      assert.equal(existsSync(`/sys/fs/cgroup/pids/default/${long}`), false);
      const absent = peer.ctr("run", "--rm", ...flags, peer.rootfs, missing, "/bin/nothing");
      assert.match(
        absent.stderr,
        /OCI runtime create failed: .*exec: "\/bin\/nothing": stat \/bin\/nothing: no such file or directory/,
      );
    } finally {
      await peer.stop();
    }
  });
});

const noPodman = whyNot("podman", "conmon", "script", "tar");
describe("podman", noPodman === undefined ? {} : { skip: noPodman }, () => {
  test("runs, execs with and without a terminal, pauses, updates, kills and removes", async () => {
    const directory = mkdtempSync(join(tmpdir(), "berth-podman-"));
    const own = ["--root", `${directory}/root`, "--runroot", `${directory}/run`, "--tmpdir", `${directory}/tmp`];
    const driver = ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs"];
    const base = [...own, ...driver, "--runtime", BERTH_RUNC];
    const podman = (...args: readonly string[]) => run("podman", [...base, ...args]);
    const onTerminal = (...args: readonly string[]) => runOnTerminal("podman", [...base, ...args]);
    try {
      assert.equal(run("tar", ["-C", makeRootfs(directory), "-cf", join(directory, "image.tar"), "."]).status, 0);
      const imported = podman("import", join(directory, "image.tar"), "bb:1");
      assert.equal(imported.status, 0, imported.stderr);
      const options = ["--network", "none"];
      const first = podman("run", "--rm", ...options, "bb:1", "sh", "-c", "echo hello; exit 5");
      assert.deepEqual([first.status, first.stdout], [5, "hello\n"], first.stderr);
      const tty = await onTerminal("run", "--rm", "-it", ...options, "bb:1", "sh", "-c", "tty; read line; exit 6");
      assert.deepEqual([tty.status, tty.stdout.includes("/dev/pts/0")], [6, true]);
      assert.equal(podman("run", "--rm", ...options, "bb:1", "no-such-program").status, 127);

      assert.equal(podman("run", "-d", ...options, "--name", "long", "bb:1", "sleep", "1000").status, 0);
      const exec = podman("exec", "long", "sh", "-c", "id -u; exit 3");
      assert.deepEqual([exec.status, exec.stdout], [3, "0\n"]);
      const terminal = await onTerminal("exec", "-it", "long", "sh", "-c", "tty; read line; exit 7");
      assert.deepEqual([terminal.status, terminal.stdout.includes("/dev/pts/")], [7, true]);
      const status = () => podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "long").stdout.trim();
      assert.equal(podman("pause", "long").status, 0);
      assert.equal(status(), "paused 0");
      assert.equal(podman("unpause", "long").status, 0);
      assert.equal(podman("update", "--memory", "64m", "long").status, 0);
      const pid = podman("inspect", "--format", "{{.State.Pid}}", "long").stdout.trim();
      assert.equal(memoryLimit(Number(pid)), String(64 << 20));
      assert.equal(podman("kill", "long").status, 0);
      await until("the container has exited", () => status() === "exited 137");
      assert.equal(podman("rm", "long").status, 0);
    } finally {
      podman("rm", "-fa");
      spawnSync("umount", ["-R", `${directory}/root`, `${directory}/run`], { stdio: "ignore" });
      rmSync(directory, { recursive: true, force: true });
    }
  });
});

/** Of a process's memory cgroup, v1 or v2. */
function memoryLimit(pid: number): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").split("\n");
  const v1 = lines.find((line) => line.split(":")[1]?.split(",").includes("memory"));
  const path = (v1 ?? lines.find((line) => line.startsWith("0::")) ?? "").split(":").slice(2).join(":");
  const file =
    v1 === undefined ? `/sys/fs/cgroup${path}/memory.max` : `/sys/fs/cgroup/memory${path}/memory.limit_in_bytes`;
  return readFileSync(file, "utf8").trim();
}
