/** berthd with a configuration file: what it changes in pods, and what a SIGHUP changes while they run. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { TestDaemon } from "./support/daemon.ts";
import { createContainer, runPod, sh, startContainer, status } from "./support/pods.ts";

/** What a container gets whose image names no PATH. */
const IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const RUNTIME = "plugins.'io.containerd.cri.v1.runtime'";
const BASE = `version = 3
[${RUNTIME}]
enable_unprivileged_ports = false
max_container_log_line_size = 10
[${RUNTIME}.containerd.runtimes.based]
pod_annotations = ["example.com/*"]
container_annotations = ["*"]
[${RUNTIME}.containerd.runtimes.gvisor]
runtime_type = "io.containerd.runsc.v1"
`;

let daemon: TestDaemon;
before(async () => {
  daemon = await TestDaemon.start({ config: BASE });
});
after(() => daemon[Symbol.asyncDispose]());

test("settings of the file reach pods and logs", async () => {
  const pod = await runPod(daemon);
  const container = await startContainer(daemon, pod, "echo 0123456789abc; : >/said; sleep 1000");
  assert.notEqual(await sh(daemon, container, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n");
  assert.equal(await sh(daemon, container, "cat /proc/sys/net/ipv4/ping_group_range"), "0\t2147483647\n");
  const { logPath } = await status(daemon, container);
  await sh(daemon, container, "until [ -e /said ]; do sleep 0.02; done");
  assert.match(readFileSync(logPath, "utf8"), /^\S+ stdout P 0123456789\n\S+ stdout F abc\n$/);
});

test("Status lists the handlers, and one that cannot be served is refused by name where it is asked for", async () => {
  const { runtimeHandlers } = await daemon.client.runtime.status({});
  assert.deepEqual(
    runtimeHandlers.map(({ name }) => name),
    ["", "runc", "berth", "berth-vm", "based", "gvisor"],
  );
  await assert.rejects(
    runPod(daemon, {}, "gvisor"),
    /runtime_handler: "gvisor" is served by the shim containerd-shim-runsc-v1, which is not on PATH/,
  );
  await assert.rejects(
    runPod(daemon, {}, "nothing"),
    /no runtime for "nothing" is configured; known: runc, berth, berth-vm, based, gvisor/,
  );
});

test("a handler's own CNI directory: its pods are on that network, and are taken off it", async () => {
  const subnet = `10.99.${process.pid % 250}.0/24`;
  const ipam = { type: "host-local", ranges: [[{ subnet }]], dataDir: `${daemon.dir}/leases` };
  const conflist = { cniVersion: "1.0.0", name: "other", plugins: [{ type: "ptp", ipam }] };
  mkdirSync(`${daemon.dir}/other-net`, { recursive: true });
  writeFileSync(`${daemon.dir}/other-net/10-other.conflist`, JSON.stringify(conflist));
  await daemon.reload(`${BASE}[${RUNTIME}.containerd.runtimes.other]\ncni_conf_dir = "${daemon.dir}/other-net"\n`);
  const address = async (id: string): Promise<string> => {
    const { status: found } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: id });
    return found?.network?.ip ?? "";
  };
  const other = await runPod(daemon, {}, "other");
  const ordinary = await runPod(daemon);
  assert.ok((await address(other.id)).startsWith(subnet.replace("0/24", "")));
  assert.ok(!(await address(ordinary.id)).startsWith(subnet.replace("0/24", "")));
  await daemon.client.runtime.removePodSandbox({ podSandboxId: other.id });
  assert.deepEqual(
    readdirSync(`${daemon.dir}/leases/other`).filter((name) => name.startsWith("10.")),
    [],
  );
});

const noIpv6 = existsSync("/proc/sys/net/ipv6") ? false : "this kernel has no IPv6";
test("two families: ip_pref says which address is the pod's first", { skip: noIpv6 }, async () => {
  const [four, six] = [`10.97.${process.pid % 250}.`, `fd97:${(process.pid % 65536).toString(16)}::`];
  const ranges = [[{ subnet: `${four}0/24` }], [{ subnet: `${six}/64` }]];
  const ipam = { type: "host-local", ranges, dataDir: `${daemon.dir}/leases` };
  const conflist = { cniVersion: "1.0.0", name: "dual", plugins: [{ type: "ptp", ipam }] };
  mkdirSync(`${daemon.dir}/dual-net`, { recursive: true });
  writeFileSync(`${daemon.dir}/dual-net/10-dual.conflist`, JSON.stringify(conflist));
  const handler = `[${RUNTIME}.containerd.runtimes.dual]\ncni_conf_dir = "${daemon.dir}/dual-net"\n`;
  const addresses = async (): Promise<string[]> => {
    const pod = await runPod(daemon, {}, "dual");
    const { status: found } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    return [found?.network?.ip ?? "", ...(found?.network?.additionalIps ?? []).map(({ ip }) => ip)];
  };
  await daemon.reload(BASE + handler);
  const standard = await addresses();
  assert.deepEqual([standard.length, standard[0]?.startsWith(four), standard[1]?.startsWith(six)], [2, true, true]);
  await daemon.reload(`${BASE}${handler}[${RUNTIME}.cni]\nip_pref = "ipv6"\n`);
  const preferred = await addresses();
  assert.deepEqual([preferred.length, preferred[0]?.startsWith(six), preferred[1]?.startsWith(four)], [2, true, true]);
});

test("conf_template: the kubelet's pod CIDR becomes a network where there is none", async () => {
  const ipam = `{"type": "host-local", "dataDir": "${daemon.dir}/leases", "ranges": [[{"subnet": "{{.PodCIDR}}"}]]}`;
  const template = `{"cniVersion": "1.0.0", "name": "templated", "plugins": [{"type": "ptp", "ipam": ${ipam}}]}`;
  writeFileSync(`${daemon.dir}/template`, template);
  await daemon.reload(`${BASE}[${RUNTIME}.cni]\nconf_template = "${daemon.dir}/template"\n`);
  const update = (podCidr: string) =>
    daemon.client.runtime.updateRuntimeConfig({ runtimeConfig: { networkConfig: { podCidr } } });
  await assert.rejects(update("10.98.0.0"), /pod_cidr: "10\.98\.0\.0" is not of the form/);
  const subnet = `10.98.${process.pid % 250}.`;
  await update(`${subnet}0/24`);
  assert.deepEqual(readdirSync(daemon.cniDir), ["10-test.conflist"], "the network that was there stays");

  renameSync(`${daemon.cniDir}/10-test.conflist`, `${daemon.dir}/10-test.conflist`);
  await daemon.reload(`${BASE}[${RUNTIME}.cni]\nconf_template = "${daemon.dir}/template"\n`);
  await update(`${subnet}0/24`);
  const pod = await runPod(daemon);
  const { status: found } = await daemon.client.runtime.podSandboxStatus({ podSandboxId: pod.id });
  assert.ok(found?.network?.ip.startsWith(subnet));
  await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  rmSync(`${daemon.cniDir}/10-containerd-net.conflist`);
  renameSync(`${daemon.dir}/10-test.conflist`, `${daemon.cniDir}/10-test.conflist`);
  await daemon.reload(BASE);
});

test("checkpoints, and containers made of them, can be switched off", async () => {
  const without = (key: string): string => BASE.replace("max_container", `${key} = false\nmax_container`);
  const pod = await runPod(daemon);
  const containerId = await startContainer(daemon, pod, "sleep 1000");
  const archive = `${daemon.dir}/checkpoint.tar`;
  writeFileSync(archive, "");
  const restore = () => createContainer(daemon, pod, "true", { image: { image: archive } });
  await daemon.reload(without("enable_criu"));
  const location = `${daemon.dir}/c.tar`;
  await assert.rejects(
    daemon.client.runtime.checkpointContainer({ containerId, location }),
    /checkpoints are disabled on this node \(enable_criu/,
  );
  await assert.rejects(
    restore,
    /checkpoint\.tar" is a checkpoint, and restoring is disabled on this node \(enable_criu/,
  );
  await daemon.reload(without("enable_experimental_restore_via_create"));
  await assert.rejects(restore, /restoring is disabled on this node \(enable_experimental_restore_via_create/);
  await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  await daemon.reload(BASE);
});

test("SIGHUP: new pods get the new settings, and a file with errors changes nothing", async () => {
  mkdirSync(`${daemon.dir}/specs`, { recursive: true });
  const limits = [{ type: "RLIMIT_NOFILE", soft: 77, hard: 99 }];
  const base = { process: { rlimits: limits, env: ["FROM_BASE=yes", "PATH=/nowhere"] }, annotations: { a: "b" } };
  writeFileSync(`${daemon.dir}/specs/base.json`, JSON.stringify(base));
  const based = `[${RUNTIME}.containerd.runtimes.based]\nbase_runtime_spec = "${daemon.dir}/specs/base.json"\n`;
  await daemon.reload(
    BASE.replace("enable_unprivileged_ports = false\n", "").replace(`[${RUNTIME}.containerd.runtimes.based]\n`, based),
  );
  const pod = await runPod(daemon, { annotations: { "example.com/a": "1", "other.com/a": "2" } }, "based");
  const container = await startContainer(daemon, pod, "sleep 1000", { annotations: { mine: "3" } });
  assert.equal(await sh(daemon, container, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n");
  assert.equal(
    await sh(daemon, container, "ulimit -n; ulimit -Hn; echo $FROM_BASE $PATH"),
    `77\n99\nyes ${IMAGE_PATH}\n`,
  );
  const { info } = await daemon.client.runtime.containerStatus({ containerId: container, verbose: true });
  const { runtimeSpec } = JSON.parse(info["info"] ?? "") as { runtimeSpec: { annotations: Record<string, string> } };
  assert.equal(runtimeSpec.annotations["example.com/a"], "1");
  assert.equal(runtimeSpec.annotations["other.com/a"], undefined);
  assert.equal(runtimeSpec.annotations["mine"], "3");
  assert.equal(runtimeSpec.annotations["a"], "b");

  await daemon.reload("version = 3\nroot = 7\n");
  assert.match(daemon.log, /config\.toml:2: error: root: must be a string in quotes, not 7/);
  await assert.doesNotReject(runPod(daemon, {}, "based"));
});
