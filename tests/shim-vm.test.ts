/** Debian's containerd runs pods in virtual machines by runtime_type alone: `ctr run --runtime io.containerd.berth-vm.v2`, and its CRI. Under TCG. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { globSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { packJson, TaskService } from "@berth/shim";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { Containerd, IMAGE, until, whyNoContainerd } from "./support/containerd.ts";
import { vmProblem } from "./support/vm.ts";

const RUNTIME = "io.containerd.berth-vm.v2";
/** Of a bridge of this test's; the name of an interface has 15 letters at most. */
const BRIDGE = `bsv${process.pid}`;
const SUBNET = `10.${128 + ((process.pid >> 8) % 100)}.${process.pid & 255}.0/24`;
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
      cni: `bin_dir = "/usr/lib/cni"`,
    });
    const image = join(peer.directory, "image");
    await makeGuestImage(image);
    const keys = {
      kernel: `"${image}/vmlinuz"`,
      initrd: `"${image}/initrd"`,
      default_memory: 256,
      default_maxmemory: 1024,
    };
    const lines = Object.entries(keys).map(([key, value]) => `${key} = ${value}\n`);
    writeFileSync(join(peer.directory, "kata.toml"), `[hypervisor.qemu]\n${lines.join("")}`);
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

  const run = (id: string, script: string): string =>
    peer.does(
      "ctr",
      "run",
      "-d",
      "--snapshotter",
      "native",
      "--runtime",
      RUNTIME,
      ...configured(),
      IMAGE,
      id,
      "sh",
      "-c",
      script,
    );
  const configured = (): string[] => ["--runtime-config-path", join(peer.directory, "kata.toml")];

  async function nothingLeft(): Promise<void> {
    await until("the shims have ended", () => peer.shims().length === 0);
    await until("nothing is left of them", () => peer.left().length === 0);
    assert.deepEqual(machines(peer), []);
    assert.deepEqual(globSync(`/sys/fs/cgroup/{,*/}${peer.namespace}/*/`), []);
  }

  test("ctr: one machine for a container; exec, terminal, pause, metrics, update, exit codes, and nothing left", async () => {
    run("vm", "trap 'exit 9' TERM; echo out; while :; do sleep 0.05; done");
    assert.equal(machines(peer).length, 1);
    const exec = (id: string, ...words: string[]) => peer.ctr("task", "exec", "--exec-id", id, "vm", ...words);
    const plain = exec("e1", "sh", "-c", "uname -r; echo e >&2; exit 4");
    assert.match(plain.stdout, /-cloud-amd64\n$/);
    assert.match(plain.stderr, /^e\n/);
    assert.equal(plain.status, 4);
    const missing = exec("e2", "/no/such/program");
    assert.match(missing.stderr, /\/no\/such\/program: no such file or directory/i);
    assert.deepEqual(peer.ctrFed("typed\n", "task", "exec", "--exec-id", "e3", "vm", "cat").stdout, "typed\n");
    const tty = peer.ctrTty("task", "exec", "-t", "--exec-id", "e4", "vm", "sh", "-c", "tty; exit 6");
    assert.match(tty.stdout, /\/dev\/pts\/\d/);
    assert.equal(tty.status, 6);
    peer.does("ctr", "task", "pause", "vm");
    assert.equal(peer.taskState("vm"), "PAUSED");
    peer.does("ctr", "task", "resume", "vm");
    assert.match(peer.does("ctr", "task", "metrics", "vm"), /memory\.usage\S*\s+[1-9]/);
    await api(peer.address("vm"));
    peer.does("ctr", "task", "kill", "-s", "SIGTERM", "vm");
    await until("it has ended", () => peer.taskState("vm") === "STOPPED");
    assert.match(peer.ctr("task", "delete", "vm").stderr, /exit code 9/);
    peer.does("ctr", "containers", "delete", "vm");
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
    const sandbox = peer.file("pod", {
      metadata: { name: peer.namespace, namespace: "default", uid: peer.namespace, attempt: 0 },
      hostname: "in-a-vm",
      log_directory: join(peer.directory, "logs"),
      linux: { cgroup_parent: `/${peer.namespace}` },
    });
    const pod = peer.does("crictl", "runp", sandbox);
    const container = (word: string, script: string): string => {
      const config = peer.file(word, {
        metadata: { name: word },
        image: { image: IMAGE },
        command: ["/bin/sh", "-c", script],
        log_path: `${word}.log`,
        linux: { resources: { memory_limit_in_bytes: 64 << 20 } },
      });
      return peer.does("crictl", "create", pod, config, sandbox);
    };
    const stateOf = (id: string) =>
      (JSON.parse(peer.does("crictl", "inspect", id)) as { status: { state: string; exitCode: number } }).status;
    const first = container("first", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done");
    const second = container("second", "while :; do sleep 0.1; done");
    for (const id of [first, second]) peer.does("crictl", "start", id);
    assert.equal(machines(peer).length, 1, "one machine has all of the pod");
    const { status } = JSON.parse(peer.does("crictl", "inspectp", pod)) as { status: { network: { ip: string } } };
    const script = "hostname 2>/dev/null || cat /proc/sys/kernel/hostname; cat /proc/net/fib_trie";
    const inside = peer.does("crictl", "exec", "-s", first, "/bin/sh", "-c", script);
    assert.match(inside, /^in-a-vm\n/);
    assert.ok(inside.includes(`-- ${status.network.ip}\n`), `${status.network.ip} is none of its addresses: ${inside}`);
    await until("the log has its line", () => peer.crictl("logs", first).stdout === "up\n");
    assert.match(peer.does("crictl", "stats", "-o", "json"), new RegExp(first));
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

  test("the hypervisor is killed: its container has ended; the shim is killed: its machine is gone too", async () => {
    run("lost", "sleep 1000");
    for (const machine of machines(peer)) process.kill(machine, "SIGKILL");
    await until("containerd has noticed", () => peer.taskState("lost") === "STOPPED");
    assert.match(peer.ctr("task", "delete", "lost").stderr, /exit code 137/);
    peer.does("ctr", "containers", "delete", "lost");
    await nothingLeft();
    run("orphan", "sleep 1000");
    for (const shim of peer.shims()) process.kill(shim, "SIGKILL");
    await until("containerd has noticed", () => peer.taskState("orphan") !== "RUNNING");
    if (peer.taskState("orphan") !== undefined) peer.ctr("task", "delete", "orphan");
    peer.does("ctr", "containers", "delete", "orphan");
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

/** Hypervisors of this containerd's. */
function machines(peer: Containerd): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8");
        return /^[^\0]*qemu-system/.test(argv) && argv.includes(peer.directory);
      } catch (error) {
        if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
        throw error;
      }
    })
    .map(Number);
}
