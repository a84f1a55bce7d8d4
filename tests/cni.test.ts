/** What berthd asks of CNI plugins beyond ADD and DEL: STATUS for the node's readiness, GC at the start, capability arguments. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { create, type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { Client, credentials } from "@grpc/grpc-js";
import { TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { runPod, sandboxConfig } from "./support/pods.ts";

/** Notes what it is called with, and does nothing; as long as there is a file `unwell` it says so. */
const PLUGIN = `#!/bin/sh
dir=$(dirname "$0")
conf=$(cat)
printf '%s %s %s\\n' "$CNI_COMMAND" "\${CNI_CONTAINERID:--}" "$conf" >>"$dir/calls"
[ -e "$dir/hangs-$CNI_COMMAND" ] && exec sleep 1000
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.9.8.7/24","interface":0}]}' ;;
STATUS) [ ! -e "$dir/unwell" ] || { echo '{"cniVersion":"1.1.0","code":50,"msg":"the agent is away"}'; exit 1; } ;;
esac
`;

interface Call {
  readonly command: string;
  readonly id: string;
  readonly conf: Readonly<Record<string, unknown>>;
}

let daemon: TestDaemon;
let bin: string;
const again = (): Promise<void> => daemon.startAgain({ args: ["--cni-bin-dir", bin] });
const calls = (command: string): Call[] =>
  readFileSync(`${bin}/calls`, "utf8")
    .trimEnd()
    .split("\n")
    .map((line): Call => {
      const [command = "", id = "", ...conf] = line.split(" ");
      return { command, id, conf: JSON.parse(conf.join(" ")) as Call["conf"] };
    })
    .filter((call) => call.command === command);
async function network(): Promise<{ status: boolean; message: string } | undefined> {
  const { status } = await daemon.client.runtime.status({});
  return status?.conditions.find(({ type }) => type === "NetworkReady");
}

before(async () => {
  daemon = await TestDaemon.start();
  bin = `${daemon.dir}/bin`;
  await daemon.kill("SIGTERM");
  mkdirSync(bin);
  writeFileSync(`${bin}/noting`, PLUGIN, { mode: 0o755 });
  const capabilities = { portMappings: true, bandwidth: true, dns: true, cgroupPath: true };
  const conf = { cniVersion: "1.1.0", name: "noted", plugins: [{ type: "noting", capabilities }] };
  writeFileSync(`${daemon.cniDir}/10-test.conflist`, JSON.stringify(conf));
  await again();
});
after(() => daemon[Symbol.asyncDispose]());

test("STATUS: the network is ready when its plugins say so, without a restart, and one that hangs is not waited for", async () => {
  assert.equal((await network())?.status, true);
  writeFileSync(`${bin}/unwell`, "");
  const { status, message } = (await network()) ?? {};
  assert.deepEqual(
    [status, message],
    [false, 'cni network "noted": plugin noting: STATUS: the agent is away (code 50)'],
  );
  rmSync(`${bin}/unwell`);
  assert.equal((await network())?.status, true);
  writeFileSync(`${bin}/hangs-STATUS`, "");
  const [first, second] = await Promise.all([network(), network()]);
  assert.match(first?.message ?? "", /STATUS: no answer after 5 s/);
  assert.equal(second?.message, first?.message);
  rmSync(`${bin}/hangs-STATUS`);
  rmSync(`${bin}/noting`);
  assert.match((await network())?.message ?? "", /no executable noting/);
  writeFileSync(`${bin}/noting`, PLUGIN, { mode: 0o755 });
  assert.equal((await network())?.status, true);
});

test("capability arguments: at ADD and, after a restart, at DEL", async () => {
  const annotations = { "kubernetes.io/egress-bandwidth": "5M" };
  const pod = await runPod(daemon, { annotations, portMappings: [{ hostPort: 8088, containerPort: 80 }] });
  const wanted = {
    portMappings: [{ hostPort: 8088, containerPort: 80, protocol: "tcp" }],
    bandwidth: { egressRate: 5_000_000, egressBurst: 4_294_967_295 },
  };
  assert.deepEqual(calls("ADD").at(-1)?.conf["runtimeConfig"], wanted);
  await daemon.kill("SIGTERM");
  await again();
  await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  const removed = calls("DEL").at(-1);
  assert.deepEqual([removed?.id, removed?.conf["runtimeConfig"]], [pod.id, wanted]);
  await assert.rejects(
    runPod(daemon, { annotations: { "kubernetes.io/ingress-bandwidth": "$(touch /x)" } }),
    /ingress-bandwidth.*is not a quantity/,
  );
});

test("a plugin that hangs: the call ends with its caller's patience, nothing is left, and what failed can be done again", async () => {
  const before = await inventory(daemon);
  writeFileSync(`${bin}/hangs-ADD`, "");
  const config = sandboxConfig(daemon);
  await assert.rejects(patient("runPodSandbox", { config }), /4 DEADLINE_EXCEEDED/);
  rmSync(`${bin}/hangs-ADD`);
  for (let adds = -1; adds !== calls("DEL").length; await later(500)) adds = calls("DEL").length;
  await assertNothingLeft(daemon, before);
  const { podSandboxId } = await daemon.client.runtime.runPodSandbox({ config });
  writeFileSync(`${bin}/hangs-DEL`, "");
  await assert.rejects(patient("stopPodSandbox", { podSandboxId }), /4 DEADLINE_EXCEEDED/);
  const { items } = await daemon.client.runtime.listPodSandbox({});
  assert.deepEqual(
    items.map(({ id }) => id),
    [podSandboxId],
    "a pod whose DEL has not ended is still there",
  );
  rmSync(`${bin}/hangs-DEL`);
  const stopping = Date.now();
  await daemon.client.runtime.stopPodSandbox({ podSandboxId });
  assert.ok(Date.now() - stopping < 60_000, "the plugin that hangs was ended with its caller, and not after its 90 s");
  await daemon.client.runtime.removePodSandbox({ podSandboxId });
  assert.equal(calls("DEL").at(-1)?.id, podSandboxId);
  await assertNothingLeft(daemon, before);
});

const later = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** A call whose caller waits for a second and a half. */
async function patient(name: "runPodSandbox" | "stopPodSandbox", request: Record<string, unknown>): Promise<void> {
  const method = cri.RuntimeService.method[name];
  const client = new Client(`unix:${daemon.socket}`, credentials.createInsecure());
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  client.makeUnaryRequest(
    `/${cri.RuntimeService.typeName}/${method.name}`,
    (message: MessageShape<DescMessage>) => Buffer.from(toBinary(method.input as DescMessage, message)),
    (bytes: Buffer) => bytes,
    create(method.input as DescMessage, request),
    { deadline: Date.now() + 1500 },
    (error) => (error ? reject(error) : resolve()),
  );
  await promise.finally(() => client.close());
}

test("GC at the start: plugins hear which pods there are, and what no pod has is taken off", async () => {
  const pod = await runPod(daemon);
  await daemon.kill("SIGKILL");
  const results = `${daemon.dir}/cni-cache/results`;
  const record = readFileSync(`${results}/noted-${pod.id}-eth0`, "utf8");
  const stale = pod.id.replaceAll(/./g, "f");
  writeFileSync(`${results}/noted-${stale}-eth0`, record.replaceAll(pod.id, stale));
  // Another runtime's, with the same cache.
  const other = pod.id.replaceAll(/./g, "e");
  writeFileSync(`${results}/noted-${other}-eth0`, record.replaceAll(pod.id, other).replace(daemon.root, "/elsewhere"));
  await again();
  assert.equal(calls("DEL").at(-1)?.id, stale);
  const valid = calls("GC").at(-1)?.conf["cni.dev/valid-attachments"] as { containerID: string; ifname: string }[];
  assert.deepEqual(
    valid.toSorted((a, b) => (a.containerID === pod.id ? -1 : a.containerID.localeCompare(b.containerID))),
    [pod.id, other].map((containerID) => ({ containerID, ifname: "eth0" })),
  );
  await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
});
