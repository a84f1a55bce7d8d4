/** `crictl` as berth has it: a pod's whole life with it, streams over both transports, and the real one's output beside it. Needs root. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { checkout, IMAGE, run, TestDaemon } from "./support/daemon.ts";
import { runPod, startContainer } from "./support/pods.ts";
import { CRICTL, crictl, sha256, spawnCrictl } from "./support/streams.ts";

const OWN = `${checkout}/bin/crictl`;
const SLEEP = "echo one; echo two >&2; echo three; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

let daemon: TestDaemon;
let pod: string;
let id: string;

before(async () => {
  daemon = await TestDaemon.start();
  const made = await runPod(daemon);
  pod = made.id;
  id = await startContainer(daemon, made, SLEEP);
});
after(async () => {
  await daemon[Symbol.asyncDispose]();
});

const own = (args: readonly string[], stdin?: Uint8Array) => crictl(daemon, args, stdin, OWN);
const said = async (...args: string[]): Promise<string> => {
  const { code, stdout, stderr } = await own(args);
  assert.equal(code, 0, `${args.join(" ")}: ${stderr}`);
  return String(stdout);
};

test("a pod's life: runp, create, start, exec, logs, stats, update, inspect, stop, rm, stopp, rmp", async () => {
  const [podFile, containerFile] = [`${daemon.dir}/pod.yaml`, `${daemon.dir}/container.json`];
  writeFileSync(
    podFile,
    `metadata: {name: life, namespace: default}\nlog_directory: ${daemon.dir}/logs/life\nlabels: {app: web}\nlinux: {security_context: {namespace_options: {pid: 1}}}\n`,
  );
  const container = {
    metadata: { name: "main" },
    image: { image: IMAGE },
    command: ["/bin/sh", "-c", `echo $WORD; ${SLEEP}`],
    envs: [{ key: "WORD", value: "héllo" }],
    log_path: "main.log",
    labels: { "io.kubernetes.pod.name": "life", "io.kubernetes.pod.namespace": "default" },
  };
  writeFileSync(containerFile, JSON.stringify(container));
  await run(["mkdir", "-p", `${daemon.dir}/logs/life`]);
  const podId = (await said("runp", podFile)).trim();
  const containerId = (await said("create", podId, containerFile, podFile)).trim();
  assert.equal(await said("start", containerId), `${containerId}\n`);
  assert.equal(await said("exec", "-s", containerId, "echo", "in"), "in\n\n\n");
  for (let logs = ""; logs !== "héllo\none\nthree\n"; logs = await said("logs", containerId))
    assert.match("héllo\none\nthree\n", new RegExp(`^${logs}`));
  assert.equal(await said("ps", "-q", "--label", "io.kubernetes.pod.name=life"), `${containerId}\n`);
  assert.equal(await said("pods", "-q", "--label", "app=web"), `${podId}\n`);
  const row = (await said("ps", "--id", containerId)).split("\n")[1] ?? "";
  assert.match(
    row,
    new RegExp(
      `^${containerId.slice(0, 13)} {7}${IMAGE} +.* ago +Running +main +0 +${podId.slice(0, 13)} +life +default$`,
    ),
  );
  assert.equal(await said("update", "--memory", String(64 << 20), containerId), `${containerId}\n`);
  assert.match(
    await said("stats", "-s", "1", containerId),
    /CONTAINER +NAME +CPU % +MEM +DISK +INODES +SWAP\n[0-9a-f]{13} +main +\d/,
  );
  const { status } = JSON.parse(await said("inspect", containerId)) as { status: { state: string; logPath: string } };
  assert.equal(status.state, "CONTAINER_RUNNING");
  assert.match((await own(["rm", containerId])).stderr, /is running, please stop it first/);
  assert.equal(await said("stop", "-t", "1", containerId), `${containerId}\n`);
  assert.equal(await said("rm", containerId), `${containerId}\n`);
  assert.equal(existsSync(status.logPath), false, "rm takes the log with it");
  assert.equal(await said("stopp", podId), `Stopped sandbox ${podId}\n`);
  assert.equal(await said("rmp", podId), `Removed sandbox ${podId}\n`);
});

describe("streams", () => {
  for (const transport of ["spdy", "websocket"]) {
    test(`exec over ${transport}: 20 MB both ways, and a failure`, async () => {
      const data = randomBytes(20 << 20);
      const { code, stdout, stderr } = await own(["exec", "-i", "-r", transport, id, "cat"], data);
      assert.deepEqual([code, sha256(stdout)], [0, sha256(data)], stderr);
      const failed = await own(["exec", "-r", transport, id, "sh", "-c", "echo out; echo err >&2; exit 3"]);
      assert.deepEqual([failed.code, String(failed.stdout)], [1, "out\n"]);
      assert.match(failed.stderr, /^err\ntime=.*level=error msg="execing command in container .*exit code 3"\n$/);
    });

    test(`port-forward over ${transport}, half-closed`, async () => {
      const made = await runPod(daemon);
      await startContainer(daemon, made, "while :; do nc -l -p 9000 -e sha256sum; done");
      await using forwarder = spawnCrictl(daemon, ["port-forward", "-r", transport, made.id, ":9000"], OWN);
      const port = Number((await forwarder.until(/127\.0\.0\.1:(\d+) -> 9000/))[1]);
      const data = randomBytes(2 << 20);
      for (const end = Date.now() + 60_000; ;) {
        const socket = connect({ host: "127.0.0.1", port, allowHalfOpen: true });
        socket.end(data);
        const answer = String(await buffer(socket).catch(() => ""));
        if (answer !== "" || Date.now() > end) {
          assert.equal(answer, `${sha256(data)}  -\n`);
          break;
        }
      }
      await daemon.client.runtime.removePodSandbox({ podSandboxId: made.id });
    });
  }
});

test("endpoints from the configuration file, the environment, and berth's own command", async () => {
  const file = `${daemon.dir}/crictl.yaml`;
  writeFileSync(file, `runtime-endpoint: unix://${daemon.socket}\ntimeout: 60\n`);
  assert.match(await run([OWN, "-c", file, "ps", "-q"]), new RegExp(id));
  assert.match(
    await run([
      "env",
      `CONTAINER_RUNTIME_ENDPOINT=unix://${daemon.socket}`,
      OWN,
      "-c",
      "/dev/null",
      "-t",
      "60s",
      "version",
    ]),
    /RuntimeName: {2}berth/,
  );
  const { code } = await crictl(daemon, ["ps"], undefined, `${checkout}/bin/berth`).catch(() => ({ code: 1 }));
  assert.equal(code, 1, "the endpoint is crictl's flag, not berth's");
  assert.match(await run([`${checkout}/bin/berth`, "crictl", "-c", file, "ps", "-q"]), new RegExp(id));
});

test("run -d --rm leaves no log directory behind", async () => {
  const berth = [`${checkout}/bin/berth`, "--address", daemon.socket];
  await run([...berth, "run", "-d", "--rm", "--net", "host", IMAGE, "true"]);
  const logs = `${daemon.root}/logs`;
  for (const end = Date.now() + 60_000; (await run(["ls", "-A", logs])) !== "";) {
    if (Date.now() > end) assert.fail(`still there: ${await run(["ls", "-A", logs])}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

/** What differs by the moment, and what crictl's own build adds: klog's lines, protojson's random second space, its version. */
const settled = (text: string): string =>
  text
    .replaceAll(/time="[^"]*"/g, "time")
    .replaceAll(/^[EWI]\d{4} .*\n/gm, "")
    .replaceAll(/": +/g, '": ')
    .replaceAll(/VERSION:\n {3}.*/g, "VERSION")
    .replaceAll("unix:///run/berth/berth.sock ", "")
    .replaceAll(/"(timestamp|value|Total|Avg\d+)": "?[\d.e-]+"?/g, '"$1"')
    .replaceAll(/TimeStamp\[\d\]: \d+/g, "TimeStamp")
    .replaceAll(/(\d+|Less than a|About an?) (second|minute|hour)s? ago *(?=\S|$)/gm, "ago ");

/** All of crictl's. */
const COMMANDS =
  "attach create exec version images inspect inspecti imagefsinfo inspectp logs port-forward ps pull run runp rm rmi rmp pods start info stop stopp update config stats statsp metricsp metricdescs completion checkpoint runtime-config events update-runtime-config help";

const LINES = `--help; ps --help; images --help; create --help; config --help; exec --help; rmi --help; pull --help; runp --help; run; rmi; pull
runp jsonschema; create jsonschema -c; create jsonschema -p; run js -pc; completion bash; completion zsh; help ps; help nosuch; nosuch
--foo; ps --foo; ps -n; ps -n x; ps extra; ps; ps -a; ps -v; ps -aq --no-trunc; ps -r; ps -o json; ps -o yaml; ps -o foo; ps -s bogus
ps --name container; ps --image ${IMAGE}; ps --label a; ps -n 1; ps --id nosuch; pods; pods -v; pods -q; pods -o json; pods -o yaml
pods --state x; images; images -q; images -v; images -o json; images -o yaml; images --digests --no-trunc --pinned; images -f bogus=1
images -f dangling=true; inspect ID; inspect -o yaml ID; inspect -q ID; inspect -o table -q ID; inspect -o foo ID; inspect nosuch
inspect --name nope; inspect ID ID; inspectp POD; inspectp -o yaml POD; inspectp -o table -q POD; inspecti ${IMAGE}; inspecti nosuch
inspecti -o table -q ${IMAGE}; info; info -q; info -o yaml; version; imagefsinfo; imagefsinfo -o table; runtime-config
update-runtime-config; metricdescs; metricdescs -o yaml; logs; logs ID; logs -t ID; logs --tail 1 ID; logs -s foo ID
logs --stream stderr ID; logs -p ID; logs --limit-bytes 3 ID; logs --since 1h ID; stop; stop -a x; stop nosuch; start; start nosuch
rm; rm nosuch; rm ID; rmp POD; rmp nosuch; stopp; update; update nosuch; update --memory x ID; checkpoint; checkpoint ID; attach
attach nosuch; port-forward; exec -s ID echo hi; exec ID echo hi; exec nosuch true; exec --name container echo hi; exec -t ID sh
exec --name nope echo hi; events -o foo; events --template x; runp; runp /nonexistent; create POD /nonexistent /nonexistent; rmi nosuch
inspect -o go-template --template {{.status.id}} ID; inspect -o go-template --template {{.status.metadata}} ID`;

test(
  "the same output, exit code and errors as the real crictl",
  { skip: CRICTL === undefined && "there is no crictl" },
  async () => {
    const different: string[] = [];
    const helps = COMMANDS.split(" ").map((name) => `${name} --help`);
    for (const line of [...LINES.split(/[;\n] */), ...helps]) {
      const args = line.split(" ").map((word) => (word === "ID" ? id : word === "POD" ? pod : word));
      const [theirs, ours] = await Promise.all([crictl(daemon, args), own(args)]);
      const [a, b] = [theirs, ours].map(({ code, stdout, stderr }) => [code, settled(String(stdout)), settled(stderr)]);
      if (JSON.stringify(a) !== JSON.stringify(b))
        different.push(`${line}\n${JSON.stringify(a)}\n${JSON.stringify(b)}`);
    }
    assert.deepEqual(different, []);
  },
);

test("a log line of the daemon names no stream that ended as it should", () => {
  assert.doesNotMatch(readFileSync(`${daemon.dir}/berthd.log`, "utf8"), /NonZeroExit/);
});
