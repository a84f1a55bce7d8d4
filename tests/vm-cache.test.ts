/** Machines that wait for a pod, under TCG: pods that take them, and what is left of them when berthd or the machine dies. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { readRecord } from "@berth/kernel";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { checkout, run, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { exited, runPod, sh, startContainer } from "./support/pods.ts";
import { vmProblem } from "./support/vm.ts";

const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const UNTIL_MS = 120_000;

describe("machines that wait for a pod", { skip: vmProblem() ?? false, timeout: 900_000 }, () => {
  let daemon: TestDaemon;
  let empty: Inventory;
  before(async () => {
    daemon = await TestDaemon.start();
    await daemon.kill("SIGTERM");
    writeFileSync(`${daemon.dir}/kata.toml`, "[hypervisor.qemu]\ndefault_memory = 192\ndefault_maxmemory = 192\n");
    writeFileSync(
      daemon.configFile,
      `version = 3\n[${RUNTIMES}.vm]\nruntime_type = "io.containerd.berth-vm.v1"\n[${RUNTIMES}.vm.options]\nConfigPath = "${daemon.dir}/kata.toml"\n`,
    );
    await makeGuestImage(`${daemon.root}/vm/image`);
    await daemon.startAgain();
    empty = await inventory(daemon);
  });
  after(async () => {
    await daemon?.[Symbol.asyncDispose]();
  });

  const machines = (): string => `${daemon.state}/vm`;
  const factory = (verb: string): Promise<string> =>
    run([
      `${checkout}/bin/berth-vm`,
      `--state=${daemon.state}`,
      `--image=${daemon.root}/vm/image`,
      `--config=${daemon.dir}/kata.toml`,
      "factory",
      verb,
    ]);

  interface Idle {
    readonly name: string;
    /** Of its hypervisor. */
    readonly pid: number;
  }

  /** The machine that waits, when one does that is none of these. */
  async function waiting(...others: readonly (Idle | undefined)[]): Promise<Idle> {
    for (const end = Date.now() + UNTIL_MS; Date.now() < end; await new Promise((done) => setTimeout(done, 20))) {
      const [, pid] = /^VM pid = (\d+) Cpu = 1 Memory = 192MiB$/m.exec(await factory("status")) ?? [];
      const name = readdirSync(machines()).find((one) => one.startsWith("vmc-"));
      if (pid === undefined || name === undefined || others.some((other) => other?.pid === Number(pid))) continue;
      return { name, pid: Number(pid) };
    }
    throw new Error(`no machine waits:\n${daemon.log}`);
  }

  async function hypervisorOf(podId: string): Promise<number> {
    const record = await readRecord(`${machines()}/${podId.slice(0, 20)}/hypervisor`);
    assert.ok(record);
    return record.pid;
  }

  const cgroupsOf = (name: string): Promise<string> => run(["find", "/sys/fs/cgroup", "-name", `berth-${name}`]);

  /** Of its process, its directory and its cgroups. */
  async function assertGone({ name, pid }: Idle): Promise<void> {
    await until(() => !existsSync(`/proc/${pid}`));
    assert.equal(existsSync(`${machines()}/${name}`), false);
    assert.equal(await cgroupsOf(name), "");
  }

  let idle: Idle;

  test("berth-vm factory init: a template beforehand, once", async () => {
    assert.equal(await factory("status"), "vm factory is off\n");
    assert.equal(await factory("init"), "vm factory initialized\n");
    assert.equal(await factory("status"), "vm factory is on\n");
    assert.deepEqual(readdirSync(machines()), []);
    // It is there.
    const templates = `${daemon.root}/vm/templates`;
    const [made] = readdirSync(templates);
    assert.equal(await factory("init"), "vm factory initialized\n");
    assert.deepEqual(readdirSync(templates), [made]);
  });

  test("behind the first pod one is made, and the next ones have it: network, volumes, cgroup and name of their own", async () => {
    const first = await runPod(daemon, {}, "vm");
    idle = await waiting();
    assert.equal(
      await factory("status"),
      `VM cache server pid = ${daemon.pid}\nVM pid = ${idle.pid} Cpu = 1 Memory = 192MiB\nvm factory is on\n`,
    );
    const second = await runPod(daemon, {}, "vm");
    assert.equal(await hypervisorOf(second.id), idle.pid);
    assert.equal(existsSync(`${machines()}/${idle.name}`), false);
    assert.equal(await cgroupsOf(idle.name), "");
    const cgroups = readFileSync(`/proc/${idle.pid}/cgroup`, "utf8").trim().split("\n");
    for (const line of cgroups) if (!/^\d+:name=/.test(line)) assert.match(line, new RegExp(`/${second.id}-vm$`));

    const third = await waiting(idle);
    const pods = [first, second, await runPod(daemon, {}, "vm")];
    assert.equal(await hypervisorOf(pods[2]?.id ?? ""), third.pid);
    const seen: string[] = [];
    for (const [index, pod] of pods.entries()) {
      const volume = `${daemon.dir}/volume-${index}`;
      mkdirSync(volume);
      const mounts = [{ containerPath: "/data", hostPath: volume }];
      const script =
        "echo $(hostname) >/data/name; echo hello >/www; httpd -p 8080 -h /; trap 'exit 5' TERM; while :; do sleep 0.1; done";
      const id = await startContainer(daemon, pod, script, { mounts });
      await until(() => existsSync(`${volume}/name`));
      const { status } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
      const address = status?.network?.ip ?? "";
      assert.equal(await fetched(`http://${address}:8080/www`), "hello\n");
      assert.equal(readFileSync(`${volume}/name`, "utf8"), `${pod.config.hostname}\n`);
      seen.push(address, await sh(daemon, id, "cat /proc/sys/kernel/random/boot_id"));
      assert.match(await sh(daemon, id, "ip -o link show eth0"), / mtu 1500 /);
    }
    assert.equal(new Set(seen).size, seen.length);

    // Its hypervisor is in no pod's network: what comes later is plugged all the same.
    const [, , last = first] = pods;
    const netns = `${daemon.netns}/berth-${last.id.slice(0, 20)}`;
    const veth = `link add later type veth peer name bl${process.pid} netns 1`;
    for (const words of [veth, "address add 192.0.2.1/24 dev later", "link set later up"])
      await run(["nsenter", `--net=${netns}`, "ip", ...words.split(" ")]);
    const later = await startContainer(daemon, last, "ip -o -4 address show later | grep -q 192.0.2.1/24");
    assert.equal((await exited(daemon, later)).exitCode, 0);
    await daemon.client.runtime.removeContainer({ containerId: later });
    for (const { id } of [first, second]) await daemon.client.runtime.removePodSandbox({ podSandboxId: id });
    idle = await waiting(idle, third);
  });

  test("berthd is killed: the machine of a pod is its pod's on, and the one that waits is ended", async () => {
    const { containers } = await daemon.client.runtime.listContainers({});
    const [container] = containers;
    assert.equal(containers.length, 1);
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    await assertGone(idle);
    assert.equal(await sh(daemon, container?.id ?? "", "cat /www"), "hello\n");
    const id = container?.id ?? "";
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 20n });
    assert.equal((await exited(daemon, id)).exitCode, 5);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: container?.podSandboxId ?? "" });
    await assertNothingLeft(daemon, empty);
  });

  test("one that dies while it waits is nobody's, and another is made", async () => {
    await daemon.client.runtime.removePodSandbox({ podSandboxId: (await runPod(daemon, {}, "vm")).id });
    idle = await waiting();
    process.kill(idle.pid, "SIGKILL");
    const next = await waiting(idle);
    await assertGone(idle);
    const pod = await runPod(daemon, {}, "vm");
    assert.equal(await hypervisorOf(pod.id), next.pid);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    idle = await waiting(idle, next);
  });

  test("one that cannot become its pod's costs no pod, and is taken away", async () => {
    // Its cgroup cannot go: somebody is below it.
    const [cgroup = ""] = (await cgroupsOf(idle.name)).split("\n");
    mkdirSync(`${cgroup}/below`);
    const child = spawn("sleep", ["1000"], { stdio: "ignore" });
    writeFileSync(`${cgroup}/below/cgroup.procs`, String(child.pid));
    const pod = await runPod(daemon, {}, "vm");
    assert.notEqual(await hypervisorOf(pod.id), idle.pid);
    await assertGone(idle);
    assert.match(daemon.log, /virtual machines that wait for a pod: one did not become its pod's: /);
    assert.equal((await exited(daemon, await startContainer(daemon, pod, "exit 3"))).exitCode, 3);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    idle = await waiting(idle);
  });

  for (const step of ["take a machine from the cache", "plug in the pod's network"])
    test(`berthd is killed when it begins to ${step}`, async () => {
      await daemon.kill("SIGTERM");
      await assertGone(idle);
      await daemon.startAgain({ dieAt: `RunPodSandbox:${step}` });
      const { id } = await runPod(daemon, {}, "vm");
      idle = await waiting();
      const died = daemon.gone();
      await assert.rejects(runPod(daemon, {}, "vm"));
      await died;
      await daemon.kill("SIGKILL");
      await daemon.startAgain();
      await assertGone(idle);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: id });
      await assertNothingLeft(daemon, empty);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: (await runPod(daemon, {}, "vm")).id });
      idle = await waiting(idle);
    });

  test("berthd ends: nothing waits any more; and templates go by berth-vm factory destroy", async () => {
    await daemon.kill("SIGTERM");
    await assertGone(idle);
    await daemon.startAgain();
    await assertNothingLeft(daemon, empty);
    assert.equal(await factory("destroy"), "vm factory destroyed\n");
    assert.deepEqual(readdirSync(`${daemon.root}/vm/templates`), []);
    assert.equal(await factory("status"), "vm factory is off\n");
  });
});

async function until(isSo: () => boolean): Promise<void> {
  for (const end = Date.now() + UNTIL_MS; !isSo(); await new Promise((done) => setTimeout(done, 20)))
    if (Date.now() > end) throw new Error(`not within ${UNTIL_MS / 1000} s: ${isSo.toString()}`);
}

/** From a server that may be about to listen. */
async function fetched(url: string): Promise<string> {
  for (const end = Date.now() + UNTIL_MS; ; await new Promise((done) => setTimeout(done, 20)))
    try {
      const answer = await fetch(url);
      return await answer.text();
    } catch (error) {
      const { cause } = error as { readonly cause?: NodeJS.ErrnoException };
      if (cause?.code !== "ECONNREFUSED" || Date.now() > end) throw error;
    }
}
