/** What berthd asks of CNI plugins beyond ADD and DEL: STATUS for the node's readiness, GC at the start, capability arguments. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { TestDaemon } from "./support/daemon.ts";
import { runPod } from "./support/pods.ts";

/** Notes what it is called with, and does nothing; as long as there is a file `unwell` it says so. */
const PLUGIN = `#!/bin/sh
dir=$(dirname "$0")
conf=$(cat)
printf '%s %s %s\\n' "$CNI_COMMAND" "\${CNI_CONTAINERID:--}" "$conf" >>"$dir/calls"
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.9.8.7/24","interface":0}]}' ;;
STATUS) [ -e "$dir/hangs" ] && exec sleep 1000
  [ ! -e "$dir/unwell" ] || { echo '{"cniVersion":"1.1.0","code":50,"msg":"the agent is away"}'; exit 1; } ;;
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
  writeFileSync(`${bin}/hangs`, "");
  const [first, second] = await Promise.all([network(), network()]);
  assert.match(first?.message ?? "", /STATUS: no answer after 5 s/);
  assert.equal(second?.message, first?.message);
  rmSync(`${bin}/hangs`);
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
    /3 INVALID_ARGUMENT.*ingress-bandwidth.*is not a quantity/,
  );
});

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
