/** Debian's containerd runs pods in virtual machines by runtime_type alone: `ctr run --runtime io.containerd.berth-vm.v2`, and its CRI. Under TCG. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { globSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { packJson, TaskService } from "@berth/shim";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { CNI, Containerd, IMAGE, type Ran, until, whyNoContainerd } from "./support/containerd.ts";
import { vmProblem } from "./support/vm.ts";

const RUNTIME = "io.containerd.berth-vm.v2";
/** Of a bridge of this test's; the name of an interface has 15 letters at most. */
const BRIDGE = `bsv${process.pid}`;
const SUBNET = `10.${128 + ((process.pid >> 8) % 100)}.${process.pid & 255}.0/24`;
const GREEDY = "x=a; while :; do x=$x$x; done";
const why = whyNoContainerd() ?? vmProblem();

describe("containerd with berth's shim for virtual machines", { skip: why ?? false, timeout: 900_000 }, () => {
  let peer: Containerd;
  before(async () => {
    peer = new Containerd({
      runtimes: {
        vm: `runtime_type = "${RUNTIME}"
pod_annotations = ["io.katacontainers.*"]
[@CRI@.containerd.runtimes.vm.options]
  ConfigPath = "@DIRECTORY@/kata.toml"`,
      },
      cni: `bin_dir = "${CNI}"`,
    });
    const image = join(peer.directory, "image");
    await makeGuestImage(image, undefined, { debugConsole: true });
    const keys = {
      kernel: `"${image}/vmlinuz"`,
      initrd: `"${image}/initrd"`,
      default_memory: 256,
      default_maxmemory: 1024,
    };
    const lines = Object.entries(keys).map(([key, value]) => `${key} = ${value}\n`);
    writeFileSync(
      join(peer.directory, "kata.toml"),
      `[hypervisor.qemu]\n${lines.join("")}[agent.kata]\ndebug_console_enabled = true\n`,
    );
    mkdirSync(join(peer.directory, "cni"));
    const ipam = {
      type: "host-local",
      dataDir: join(peer.directory, "leases"),
      ranges: [[{ subnet: SUBNET }]],
    };
    const plugins = [{ type: "bridge", bridge: BRIDGE, isGateway: true, ipam }];
    writeFileSync(
      join(peer.directory, "cni/10.conflist"),
      JSON.stringify({ cniVersion: "0.4.0", name: BRIDGE, plugins }),
    );
    await peer.start();
    await peer.load();
  });
  after(async () => {
    await peer?.end();
    spawnSync("ip", ["link", "delete", BRIDGE]);
  });

  const words = (...more: string[]): string[] => {
    const shim = ["--snapshotter", "native", "--runtime", RUNTIME];
    return ["run", ...more, ...shim, ...configured(), IMAGE];
  };
  const run = (id: string, script: string): string => peer.does("ctr", ...words("-d"), id, "sh", "-c", script);
  const configured = (): string[] => ["--runtime-config-path", join(peer.directory, "kata.toml")];

  async function nothingLeft(): Promise<void> {
    await until("the shims have ended", () => peer.shims().length === 0);
    await until("nothing is left of them", () => peer.left().length === 0);
    assert.deepEqual(machines(peer), []);
    assert.deepEqual(globSync(`/sys/fs/cgroup/{,*/}${peer.namespace}/*/`), []);
  }

  test("the shim is killed: its machine is gone too, and the template that it was making", async () => {
    run("orphan", "sleep 1000");
    for (const shim of peer.shims()) process.kill(shim, "SIGKILL");
    await until("containerd has noticed", () => peer.taskState("orphan") !== "RUNNING");
    if (peer.taskState("orphan") !== undefined) peer.ctr("task", "delete", "orphan");
    peer.does("ctr", "containers", "delete", "orphan");
    await nothingLeft();
  });

  test("ctr: one machine for a container; exec, terminal, pause, metrics, update, ps, exit codes, events, and nothing left", async () => {
    using events = await peer.listen();
    run("vm", "trap 'exit 9' TERM; echo out; while :; do sleep 0.05; done");
    assert.equal(machines(peer).length, 1);
    const exec = (id: string, ...words: string[]) => peer.ctr("task", "exec", "--exec-id", id, "vm", ...words);
    const plain = exec("e1", "sh", "-c", "uname -r; echo e >&2; exit 4");
    assert.match(plain.stdout, /-cloud-amd64\n$/);
    assert.match(plain.stderr, /^e\n/);
    assert.equal(plain.status, 4);
    const missing = exec("e2", "/no/such/program");
    assert.match(missing.stderr, /\/no\/such\/program: no such file or directory/i);
    assert.equal(peer.fed("ctr", "typed\n", "task", "exec", "--exec-id", "e3", "vm", "cat").stdout, "typed\n");
    const tty = peer.typed("ctr", "", "task", "exec", "-t", "--exec-id", "e4", "vm", "sh", "-c", "tty; exit 6");
    assert.match(tty.stdout, /\/dev\/pts\/\d/);
    assert.equal(tty.status, 6);
    peer.does("ctr", "task", "exec", "-d", "--exec-id", "e5", "vm", "sleep", "1000");
    assert.match(peer.does("ctr", "task", "ps", "vm"), /^\d+ +-\n\d+ +.*\be5\b/m);
    peer.does("ctr", "task", "kill", "--exec-id", "e5", "-s", "SIGKILL", "vm");
    await until("the exec is gone", () => !peer.does("ctr", "task", "ps", "vm").includes("e5"));
    peer.does("ctr", "task", "pause", "vm");
    assert.equal(peer.taskState("vm"), "PAUSED");
    peer.does("ctr", "task", "resume", "vm");
    assert.match(peer.does("ctr", "task", "metrics", "vm"), /memory\.usage\S*\s+[1-9]/);
    await api(peer.address("vm"));
    await until("the template is there, that later machines are copies of", () => peer.templates().length > 0);
    peer.does("ctr", "task", "kill", "-s", "SIGTERM", "vm");
    await until("it has ended", () => peer.taskState("vm") === "STOPPED");
    assert.match(peer.ctr("task", "delete", "vm").stderr, /exit code 9/);
    peer.does("ctr", "containers", "delete", "vm");
    await nothingLeft();
    for (const topic of ["create", "start", "exec-added", "exec-started", "paused", "resumed", "exit", "delete"])
      await until(`the event ${topic} is told`, () => events.told(topic));
    const greedy = peer.ctr(...words("--rm", "--memory-limit", String(15 << 20)), "greedy", "sh", "-c", GREEDY);
    assert.equal(greedy.status, 137);
    await until("the event oom is told", () => events.told("oom"));
    await nothingLeft();
  });

  test("ctr run and attach: copies of the template, with output, input, a terminal, and an interface by CNI", async () => {
    const plain = peer.ctr(...words("--rm"), "plain", "sh", "-c", "echo out; echo err >&2; exit 7");
    assert.deepEqual([plain.stdout, plain.status], ["out\n", 7]);
    assert.match(plain.stderr, /^err\n/);
    const missing = peer.ctr(...words("--rm"), "missing", "/no/such/program");
    assert.match(missing.stderr, /\/no\/such\/program: no such file or directory/i);
    // Shims end behind the call that ends their last container.
    await nothingLeft();
    run("fed", "read line; echo got $line; echo bad >&2; exit 4");
    assert.deepEqual(machines(peer).map(isCopy), [true]);
    const fed = peer.fed("ctr", "word\n", "task", "attach", "fed");
    assert.deepEqual([fed.stdout, fed.status], ["got word\n", 4]);
    assert.match(fed.stderr, /^bad\n/);
    peer.does("ctr", "containers", "delete", "fed");
    const script = "read line; echo got $line; tty; cat /proc/net/fib_trie; exit 5";
    const started = peer.typed("ctr-cni", "", ...words("-d", "-t", "--cni"), "screen", "sh", "-c", script);
    assert.equal(started.status, 0, started.stdout);
    const screen = peer.typed("ctr", "word\n", "task", "attach", "screen");
    assert.match(screen.stdout, /got word\r+\n\/dev\/pts\/\d+\r+\n/);
    assert.ok(screen.stdout.includes(`-- ${SUBNET.replace(/\.0\/24$/, ".")}`), screen.stdout);
    assert.equal(screen.status, 5);
    peer.does("ctr", "containers", "delete", "screen");
    await nothingLeft();
  });

  /** What ctr has no command for. */
  async function api(address: string): Promise<void> {
    const service = await TaskService.connect({ address, version: 3 }, peer.namespace);
    const refused = (code: number) => (error: unknown) => error instanceof TtrpcError && error.code === code;
    const memory = (): number =>
      Number(
        /^MemTotal: +(\d+)/m.exec(
          peer.does("ctr", "task", "exec", "--exec-id", "m", "vm", "cat", "/proc/meminfo"),
        )?.[1],
      );
    const before = memory();
    const limit = 384 << 20;
    await service.call("update", { id: "vm", resources: packJson("LinuxResources", { memory: { limit } }) });
    assert.match(peer.does("ctr", "task", "metrics", "vm"), new RegExp(`\\b${limit}\\b`));
    await until("the machine has grown", () => memory() >= before + (limit >> 10));
    await assert.rejects(service.call("checkpoint", { id: "vm", path: "/nowhere" }), refused(CODE.unimplemented));
    service.close();
  }

  test("the CRI: a pod's containers in one machine with its network, over a restart of containerd", async () => {
    const policy = Buffer.from(policyText('input.process.Args[0] != "/bin/touch"')).toString("base64");
    const sandbox = peer.file("pod", {
      metadata: { name: peer.namespace, namespace: "default", uid: peer.namespace, attempt: 0 },
      hostname: "in-a-vm",
      annotations: { "io.katacontainers.config.agent.policy": policy },
      log_directory: join(peer.directory, "logs"),
      linux: { cgroup_parent: `/${peer.namespace}` },
    });
    const pod = peer.does("crictl", "runp", sandbox);
    const container = (word: string, script: string, more: object = {}): string => {
      const config = peer.file(word, {
        metadata: { name: word },
        image: { image: IMAGE },
        command: ["/bin/sh", "-c", script],
        log_path: `${word}.log`,
        linux: { resources: { memory_limit_in_bytes: 64 << 20 } },
        ...more,
      });
      return peer.does("crictl", "create", pod, config, sandbox);
    };
    const stateOf = (id: string) =>
      (JSON.parse(peer.does("crictl", "inspect", id)) as { status: { state: string; exitCode: number } }).status;
    const first = container("first", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done");
    const second = container("second", "while :; do sleep 0.1; done");
    const fed = container("fed", "cat; exit 6", { stdin: true, stdin_once: true });
    for (const id of [first, second, fed]) peer.does("crictl", "start", id);
    assert.deepEqual(machines(peer).map(isCopy), [true], "one machine has all of the pod");
    const { status } = JSON.parse(peer.does("crictl", "inspectp", pod)) as { status: { network: { ip: string } } };
    const script = "hostname 2>/dev/null || cat /proc/sys/kernel/hostname; cat /proc/net/fib_trie";
    const inside = peer.does("crictl", "exec", "-s", first, "/bin/sh", "-c", script);
    assert.match(inside, /^in-a-vm\n/);
    assert.ok(inside.includes(`-- ${status.network.ip}\n`), `${status.network.ip} is none of its addresses: ${inside}`);
    await until("the log has its line", () => peer.crictl("logs", first).stdout === "up\n");
    assert.match(peer.does("crictl", "stats", "-o", "json"), new RegExp(first));
    assert.equal(peer.fed("crictl", "typed\n", "exec", "-i", first, "/bin/cat").stdout, "typed\n");
    assert.match(peer.typed("crictl", "", "exec", "-i", "-t", first, "/bin/tty").stdout, /\/dev\/pts\/\d/);
    assert.equal(peer.fed("crictl", "typed\n", "attach", "-i", fed).stdout, "typed\n");
    await until("its input has ended", () => stateOf(fed).exitCode === 6);
    peer.does("crictl", "update", "--memory", String(96 << 20), first);
    assert.match(peer.does("ctr", "-n", "k8s.io", "task", "metrics", first), new RegExp(`\\b${96 << 20}\\b`));
    managed(pod, first);
    await peer.kill("SIGKILL");
    await peer.start();
    await until("containerd knows it again", () => stateOf(first).state === "CONTAINER_RUNNING");
    assert.equal(peer.does("crictl", "exec", "-s", second, "/bin/echo", "again"), "again");
    peer.does("crictl", "stop", "--timeout", "30", first);
    assert.deepEqual([stateOf(first).state, stateOf(first).exitCode], ["CONTAINER_EXITED", 3]);
    peer.does("crictl", "stopp", pod);
    peer.does("crictl", "rmp", pod);
    await nothingLeft();
  });

  /** By berth-vm, as berthd's machines. */
  function managed(pod: string, container: string): void {
    const metrics = peer.does("berth-vm", "metrics", pod);
    for (const name of ["kata_hypervisor_fds", "kata_virtiofsd_fds", "kata_guest_meminfo", "kata_agent_total_rss"])
      assert.match(metrics, new RegExp(`^${name}`, "m"));
    assert.match(metrics, /^kata_shim_rpc_durations_\w+_count\{action="create"\} 4$/m);
    assert.match(metrics, /^kata_shim_agent_rpc_durations_\w+_count\{action="grpc.CreateContainerRequest"\} 4$/m);
    const shell = peer.fed("berth-vm", "cat /proc/1/comm; exit\n", "exec", pod);
    assert.match(shell.stdout, /\r\nbosun-guest\r\n/);
    assert.match(peer.fed("berth-vm", undefined, "iptables", "get", "--sandbox-id", pod).stderr, /no \/sbin\/iptables/);

    const touch = (): Ran => peer.crictl("exec", "-s", container, "/bin/touch", "/touched");
    assert.match(touch().stderr, /ExecProcessRequest is blocked by policy/);
    const policy = join(peer.directory, "policy.rego");
    writeFileSync(policy, policyText("true"));
    peer.does("berth-vm", "policy", "set", "--sandbox-id", pod, policy);
    assert.equal(touch().status, 0);
  }

  test("the hypervisor is killed: its container has ended", async () => {
    run("lost", "sleep 1000");
    for (const machine of machines(peer)) process.kill(machine, "SIGKILL");
    await until("containerd has noticed", () => peer.taskState("lost") === "STOPPED");
    assert.match(peer.ctr("task", "delete", "lost").stderr, /exit code 137/);
    peer.does("ctr", "containers", "delete", "lost");
    await nothingLeft();
  });

  test("what cannot be is refused by name before a machine is booted", () => {
    const base = ["run", "--rm", "--snapshotter", "native", "--runtime", RUNTIME];
    const onHost = peer.ctr(...base, ...configured(), "--net-host", IMAGE, "host", "true");
    assert.match(onHost.stderr, /a virtual machine cannot be on the node's network/);
    const bad = join(peer.directory, "bad.toml");
    writeFileSync(bad, "[hypervisor.qemu]\ndefault_memroy = 1\n");
    const unknown = peer.ctr(...base, "--runtime-config-path", bad, IMAGE, "bad", "true");
    assert.match(unknown.stderr, /default_memroy: no such key/);
    assert.deepEqual(machines(peer), []);
  });
});

/** Allows all that a pod needs, and execs where `exec` holds. */
function policyText(exec: string): string {
  const allowed = `CreateSandbox UpdateInterface UpdateRoutes CreateContainer StartContainer UpdateContainer
    ReadStream WriteStream SignalProcess StatsContainer GetMetrics GetIPTables SetPolicy`;
  const rules = allowed.split(/\s+/).map((name) => `default ${name}Request := true\n`);
  return `package agent_policy\n${rules.join("")}ExecProcessRequest if ${exec}\n`;
}

const isCopy = (machine: number): boolean => readFileSync(`/proc/${machine}/cmdline`, "utf8").includes("-incoming");

/** Hypervisors of this containerd's containers. What becomes a template is not one. */
function machines(peer: Containerd): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8");
        return (
          /^[^\0]*qemu-system/.test(argv) && argv.includes(peer.directory) && !argv.includes("\0-name\0sandbox-tpl-")
        );
      } catch (error) {
        if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
        throw error;
      }
    })
    .map(Number);
}
