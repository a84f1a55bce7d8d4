/** What people ask of a pod's virtual machine beside the CRI: metrics, management, a shell, a policy; and what is told when it dies. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { readRecord } from "@berth/kernel";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { checkout, TestDaemon } from "./support/daemon.ts";
import { exited, OWN_PID, runPod, sh, startContainer } from "./support/pods.ts";
import { endProgram, notReady, vmProblem } from "./support/vm.ts";

const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const PERMISSION_DENIED = 7;

/** Kata's, as its documents list them; of processes and of what this guest has. */
const FAMILIES = {
  kata_shim_:
    "fds io_stat netdev proc_stat proc_status threads pod_overhead_memory_in_bytes rpc_durations_histogram_milliseconds agent_rpc_durations_histogram_milliseconds",
  kata_hypervisor_: "fds io_stat netdev proc_stat proc_status threads",
  kata_virtiofsd_: "fds io_stat proc_stat proc_status threads",
  kata_guest_: "cpu_time load meminfo netdev_stat tasks vm_stat",
  kata_agent_: "io_stat proc_stat proc_status scrape_count threads total_rss total_time total_vm",
};

const BOOT_STEPS = [
  "start virtiofsd",
  "start the hypervisor",
  "wait for the guest",
  "set up the guest",
  "set up the guest's network",
  "join the pod's network",
];

describe("tools for pods in virtual machines", { skip: vmProblem() ?? false, timeout: 900_000 }, () => {
  let daemon: TestDaemon;
  let empty: Inventory;
  before(async () => {
    daemon = await TestDaemon.start();
    await daemon.kill("SIGTERM");
    writeFileSync(
      `${daemon.dir}/kata.toml`,
      "[hypervisor.qemu]\ndefault_memory = 192\n[factory]\nvm_cache_number = 0\n[agent.kata]\ndebug_console_enabled = true\n",
    );
    writeFileSync(
      daemon.configFile,
      `version = 3\n[${RUNTIMES}.vm]\nruntime_type = "io.containerd.berth-vm.v1"\n[${RUNTIMES}.vm.options]\nConfigPath = "${daemon.dir}/kata.toml"\n`,
    );
    await makeGuestImage(`${daemon.root}/vm/image`, undefined, { debugConsole: true });
    await daemon.startAgain();
    empty = await inventory(daemon);
  });
  after(async () => {
    await daemon?.[Symbol.asyncDispose]();
  });

  interface Said {
    readonly status: number;
    readonly stdout: string;
    readonly stderr: string;
  }

  /** berth-vm with these arguments; `stdin`: what is typed. */
  async function command(argv: readonly string[], stdin = ""): Promise<Said> {
    const child = spawn(`${checkout}/bin/berth-vm`, ["--state", daemon.state, ...argv]);
    child.stdin.end(stdin);
    const { promise, resolve } = Promise.withResolvers<number>();
    child.once("close", (code) => resolve(code ?? -1));
    const [stdout, stderr, status] = await Promise.all([text(child.stdout), text(child.stderr), promise]);
    return { status, stdout, stderr };
  }

  test("metrics of machine and guest, a shell in it, a policy that is set, and all metrics of its containers", async () => {
    const pod = await runPod(daemon, {}, "vm");
    const id = await startContainer(daemon, pod, "sleep 1000 & exec sleep 1000");
    // So that it has received a packet and sent one: its kernel says that nobody listens there.
    const { status: podStatus } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
    const connection = connect({ host: podStatus?.network?.ip ?? "", port: 1 });
    await assert.rejects(once(connection, "connect"), { code: "ECONNREFUSED" });

    const { stdout, status, stderr } = await command(["metrics", pod.id]);
    assert.equal(stderr, "");
    assert.equal(status, 0);
    for (const [prefix, names] of Object.entries(FAMILIES))
      for (const name of names.split(" "))
        assert.match(stdout, new RegExp(`^# TYPE ${prefix}${name} (gauge|counter|histogram)\n${prefix}${name}`, "m"));
    const sample = (name: string, labels: string): number =>
      Number(new RegExp(`^${name}\\{[^}]*${labels}[^}]*\\} (\\d+)$`, "m").exec(stdout)?.[1]);
    const memory = Number(/MemTotal: +(\d+) kB/.exec(await sh(daemon, id, "cat /proc/meminfo"))?.[1]) * 1024;
    assert.equal(sample("kata_guest_meminfo", 'item="mem_total"'), memory);
    const record = await readRecord(`${daemon.state}/vm/${pod.id.slice(0, 20)}/hypervisor`);
    const rss = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${record?.pid}/status`, "utf8"))?.[1]) * 1024;
    const told = sample("kata_hypervisor_proc_status", 'item="vmhwm"');
    assert.ok(told > 0 && told <= rss, `${told} of ${rss}`);
    assert.ok(sample("kata_hypervisor_netdev", 'interface="eth0",item="recv_bytes"') > 0);
    assert.ok(sample("kata_guest_netdev_stat", 'interface="eth0",item="sent_packets"') > 0);
    assert.match(stdout, /^kata_shim_agent_rpc_durations_.*_count\{action="grpc.CreateContainerRequest"\} 1$/m);

    await bootIsTraced(pod.id);
    await shell(pod.id);
    await metricsOfContainers(pod.id, id);

    // The same as for kata-runtime: a file, and the present policy's consent.
    const policy = `${daemon.dir}/policy.rego`;
    const set = (text: string): Promise<Said> => {
      writeFileSync(policy, `package agent_policy\n${text}\n`);
      return command(["policy", "set", "--sandbox-id", pod.id, policy]);
    };
    const exec = () => daemon.client.runtime.execSync({ containerId: id, cmd: ["/bin/true"], timeout: 20n });
    assert.equal((await exec()).exitCode, 0);
    assert.deepEqual(
      await set(
        "default ExecProcessRequest := false\ndefault SetPolicyRequest := true\ndefault SignalProcessRequest := true",
      ),
      { status: 0, stdout: "", stderr: "" },
    );
    await assert.rejects(exec(), { code: PERMISSION_DENIED, message: /ExecProcessRequest is blocked by policy/ });
    const denied = await command(["metrics", pod.id]);
    assert.match(denied.stderr, /GetMetricsRequest is blocked by policy/);
    assert.match((await set("X {")).stderr, /Error observed when making policy-set request.*line 3: /s);
    // Another daemon knows it too, and its management is there again.
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    await assert.rejects(exec(), { code: PERMISSION_DENIED });
    assert.deepEqual(await set("default ExecProcessRequest := true\ndefault ReadStreamRequest := true"), {
      status: 0,
      stdout: "",
      stderr: "",
    });
    assert.equal((await exec()).exitCode, 0);
    assert.match((await set("default SetPolicyRequest := true")).stderr, /SetPolicyRequest is blocked by policy/);
    assert.match((await command(["iptables", "get", "--sandbox-id", pod.id])).stderr, /GetIPTablesRequest is blocked/);

    await endProgram(daemon, pod.id, "relay");
    assert.equal((await exited(daemon, id)).exitCode, 137);
    await notReady(daemon, pod.id);
    assert.match(daemon.log, /virtual machine is gone: relay ended with status 137/);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    assert.match((await command(["metrics", pod.id])).stderr, /no virtual machine runs for pod/);
    await assertNothingLeft(daemon, empty);
  });

  async function bootIsTraced(podSandboxId: string): Promise<void> {
    for (const end = Date.now() + 60_000; ; await new Promise((resolve) => setTimeout(resolve, 20))) {
      const { spans } = await daemon.client.berth.trace({ podSandboxId });
      const [kernel, wait] = ["boot of the guest's kernel", "wait for the guest"].map((name) =>
        spans.find(({ step }) => step === name),
      );
      assert.ok(wait);
      const own = spans.filter(({ step }) => /virtiofsd|hypervisor|guest|network/.test(step)).map(({ step }) => step);
      for (const step of BOOT_STEPS) assert.ok(own.includes(step), `${step}: ${own.join(", ")}`);
      if (kernel) return assert.ok(kernel.startedAt < kernel.finishedAt && kernel.startedAt < wait.finishedAt);
      if (Date.now() > end) assert.fail("the guest's boot is not part of the trace");
    }
  }

  async function shell(podSandboxId: string): Promise<void> {
    const { stdout, stderr, status } = await command(
      ["exec", podSandboxId],
      "cat /proc/1/comm; ls -d /run/berth/c/* | wc -l; tty; exit\n",
    );
    assert.equal(stderr, "");
    assert.equal(status, 0);
    assert.match(stdout, /\r\nbosun-guest\r\n[2-9]\r\n\/dev\/pts\/\d+\r\n/);
  }

  async function metricsOfContainers(podSandboxId: string, containerId: string): Promise<void> {
    const { podMetrics } = await daemon.client.runtime.listPodSandboxMetrics({});
    const pod = podMetrics.find((one) => one.podSandboxId === podSandboxId);
    const own = pod?.containerMetrics.find((one) => one.containerId === containerId)?.metrics ?? [];
    const value = (name: string): bigint => own.find((metric) => metric.name === name)?.value?.value ?? -1n;
    assert.equal(value("container_processes"), 2n);
    assert.equal(value("container_threads"), 2n);
    assert.ok(value("container_file_descriptors") >= 6n);
    assert.equal(value("container_sockets"), 0n);
    assert.ok(value("container_memory_usage_bytes") > 0n);
    assert.ok(value("container_memory_total_inactive_file_bytes") >= 0n);
    assert.ok(value("container_ulimits_soft") > 0n);
  }

  test("a policy of the pod's own, and a kernel that panics", async () => {
    const allowed = [
      "CreateSandbox",
      "UpdateInterface",
      "UpdateRoutes",
      "CreateContainer",
      "StartContainer",
      "ReadStream",
    ];
    const policy = (requests: readonly string[]): Record<string, string> => {
      const rules = requests.map((name) => `default ${name}Request := true\n`);
      const text = `package agent_policy\ndefault ExecProcessRequest := false\n${rules.join("")}`;
      return { "io.katacontainers.config.agent.policy": Buffer.from(text).toString("base64") };
    };
    await assert.rejects(runPod(daemon, { annotations: policy([]) }, "vm"), {
      code: PERMISSION_DENIED,
      message: /CreateSandboxRequest is blocked by policy/,
    });
    const linux = { securityContext: { ...OWN_PID, privileged: true } };
    const pod = await runPod(daemon, { annotations: policy(allowed), linux }, "vm");
    const id = await startContainer(daemon, pod, "sleep 1000");
    await assert.rejects(sh(daemon, id, "true"), /ExecProcessRequest is blocked by policy/);
    await startContainer(daemon, pod, "echo c >/proc/sysrq-trigger", { linux });
    assert.equal((await exited(daemon, id)).exitCode, 137);
    await notReady(daemon, pod.id);
    assert.match(
      daemon.log,
      /virtual machine is gone: .*the guest's kernel panicked: Kernel panic - not syncing: sysrq/,
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });
});
