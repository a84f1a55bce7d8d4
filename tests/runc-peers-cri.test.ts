/** berth-runc as the `BinaryName` of a CRI runtime: containerd's own CRI, driven by crictl's commands. */
import assert from "node:assert/strict";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, globSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { imageArchive } from "../scripts/busybox-image.ts";

const BIN = new URL("../bin/", import.meta.url).pathname;
const IMAGE = "localhost/peers:1";
const BUSYBOX = "/bin/busybox";
const APPLETS = ["sh", "sleep", "true", "tty", "id", "echo", "cat"];
const LIMIT_MS = 60_000;
/** namespaces.network of the CRI: the node's, so that no CNI is asked. */
const NODE = 2;

function whyNot(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!existsSync(BUSYBOX)) return "needs a static /bin/busybox";
  const missing = ["containerd", "ctr"].find((name) => spawnSync("which", [name]).status !== 0);
  return missing === undefined ? undefined : `needs ${missing}`;
}

/** A containerd with its CRI, whose default runtime is berth-runc. */
class Containerd {
  readonly directory = mkdtempSync(join(tmpdir(), "berth-cri-"));
  readonly #address = join(this.directory, "c.sock");
  readonly #log = join(this.directory, "log");
  readonly #process: ChildProcess;

  constructor() {
    const config = join(this.directory, "config.toml");
    writeFileSync(
      config,
      `version = 2
root = "${this.directory}/root"
state = "${this.directory}/state"
[grpc]
  address = "${this.#address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "${this.directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${IMAGE}"
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "berth"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.berth]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.berth.options]
        BinaryName = "${BIN}berth-runc"
        Root = "${this.directory}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "${this.directory}/cni"
`,
    );
    this.#process = spawn("sh", ["-c", `exec containerd -c ${config} >${this.#log} 2>&1`], { stdio: "ignore" });
  }

  async ready(): Promise<void> {
    await until("containerd's CRI answers", () => this.crictl("version").status === 0);
    const archive = join(this.directory, "image.tar");
    const links = APPLETS.map((name) => ({ path: `bin/${name}`, mode: 0o777, link: "busybox" }));
    const busybox = { path: "bin/busybox", mode: 0o755, content: readFileSync(BUSYBOX) };
    writeFileSync(archive, imageArchive(IMAGE, [busybox, ...links], { Cmd: ["/bin/sleep", "100000"] }));
    const args = ["--address", this.#address, "-n", "k8s.io", "images", "import", "--snapshotter", "native", archive];
    const { status, stderr } = spawnSync("ctr", args, { encoding: "utf8", timeout: LIMIT_MS });
    assert.equal(status, 0, stderr);
    await until("the image is known", () => this.crictl("images").stdout.includes("localhost/peers"));
  }

  crictl(...args: readonly string[]): {
    readonly status: number | null;
    readonly stdout: string;
    readonly stderr: string;
  } {
    const endpoint = `unix://${this.#address}`;
    const own = ["--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "30s"];
    const { status, stdout, stderr } = spawnSync(join(BIN, "crictl"), [...own, ...args], {
      encoding: "utf8",
      timeout: LIMIT_MS,
    });
    return { status, stdout, stderr };
  }

  /** What must succeed; without the newline. */
  does(...args: readonly string[]): string {
    const { status, stdout, stderr } = this.crictl(...args);
    assert.equal(status, 0, `${args.join(" ")}: ${stderr}${this.#lastWords()}`);
    return stdout.trimEnd();
  }

  #lastWords(): string {
    return readFileSync(this.#log, "utf8").split("\n").slice(-6).join("\n");
  }

  file(name: string, content: object): string {
    const path = join(this.directory, `${name}.json`);
    writeFileSync(path, JSON.stringify(content));
    return path;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill("SIGTERM");
    await ended;
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries++) {
    assert.ok(tries < 2000, `timed out waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const skip = whyNot();
describe("containerd's CRI with BinaryName", skip === undefined ? {} : { skip }, () => {
  test("a pod and a container: run, create, start, exec, stop, remove", async () => {
    const peer = new Containerd();
    let pod = "";
    try {
      await peer.ready();
      const name = `peers-${process.pid}`;
      const sandbox = peer.file("pod", {
        metadata: { name, namespace: "default", uid: name, attempt: 0 },
        log_directory: join(peer.directory, "logs"),
        linux: { cgroup_parent: `/${name}`, security_context: { namespace_options: { network: NODE } } },
      });
      pod = peer.does("runp", sandbox);
      const config = peer.file("container", {
        metadata: { name: "main" },
        image: { image: IMAGE },
        command: ["/bin/sh", "-c", "trap 'exit 3' TERM; echo up; while :; do /bin/sleep 0.1; done"],
        log_path: "main.log",
        linux: { resources: { memory_limit_in_bytes: 64 << 20, oom_score_adj: 500 } },
      });
      const container = peer.does("create", pod, config, sandbox);
      const state = () =>
        (JSON.parse(peer.does("inspect", container)) as { status: { state: string; exitCode: number } }).status;
      assert.equal(state().state, "CONTAINER_CREATED");
      peer.does("start", container);
      assert.equal(state().state, "CONTAINER_RUNNING");
      assert.ok(existsSync(join(peer.directory, "runc/k8s.io", container, "state.flat")), "the runtime is berth-runc");
      assert.equal(peer.does("exec", "-s", container, "/bin/id", "-u"), "0");
      assert.notEqual(peer.crictl("exec", "-s", container, "/bin/sh", "-c", "exit 4").status, 0);
      await until("the log has its line", () => peer.crictl("logs", container).stdout === "up\n");
      peer.does("update", "--memory", String(96 << 20), container);
      assert.match(peer.does("stats", "-o", "json"), new RegExp(container));
      peer.does("stop", "--timeout", "10", container);
      assert.deepEqual([state().state, state().exitCode], ["CONTAINER_EXITED", 3]);
      peer.does("rm", container);
      peer.does("stopp", pod);
      peer.does("rmp", pod);
      assert.equal(existsSync(join(peer.directory, "runc/k8s.io", container)), false);
      // A pod's cgroup is the kubelet's to remove: there is nothing in it any more.
      for (const group of globSync(`/sys/fs/cgroup/{,*/}${name}`)) rmdirSync(group);
      pod = "";
    } finally {
      if (pod !== "") peer.crictl("rmp", "--force", pod);
      await peer.stop();
    }
  });
});
