import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { status } from "@grpc/grpc-js";
import { FakeDaemon, RpcError, runBerth, testShell } from "./double/index.ts";

const run = (daemon: FakeDaemon, ...argv: string[]) => runBerth(["-a", daemon.socket, ...argv]);
const MINUTE = 60_000_000_000n;

test("ps: columns as wide as their content, newest first, running ones unless -a", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "web", "-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "box", "sleep", "60");
  await run(daemon, "run", "--name", "old", "box", "exit", "3");
  const [web, old] = [...daemon.containers.values()];
  assert.ok(web && old);
  web.startedAt -= 3n * MINUTE;
  const { stdout } = await run(daemon, "ps");
  assert.equal(
    stdout,
    `CONTAINER ID   IMAGE   COMMAND      CREATED                  STATUS         PORTS                                        NAMES\n` +
      `${web.id.slice(0, 12)}   box     "sleep 60"   Less than a second ago   Up 3 minutes   0.0.0.0:8080->80/tcp, 127.0.0.1:53->53/udp   web\n`,
  );
  const all = (await run(daemon, "ps", "-a")).stdout.split("\n");
  assert.match(
    all[1] ?? "",
    /^[0-9a-f]{12}   box     "exit 3" +Less than a second ago   Exited \(3\) Less than a second ago +old$/,
  );
  assert.equal((await run(daemon, "ps", "-q")).stdout, `${web.id.slice(0, 12)}\n`);
  assert.equal((await run(daemon, "ps", "-aq", "--no-trunc")).stdout, `${old.id}\n${web.id}\n`);
  assert.equal((await run(daemon, "ps", "-n", "1", "-q", "--no-trunc")).stdout, `${old.id}\n`);
});

test("ps -q asks for nothing that it does not print", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "box", "sleep");
  daemon.calls.length = 0;
  await run(daemon, "ps", "-q");
  assert.deepEqual(daemon.calls, []);
});

test("ps --json has stable fields", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "--name", "a", "-l", "tier=1", "-p", "1:2", "box", "exit", "3");
  const [container] = JSON.parse((await run(daemon, "ps", "-a", "--json")).stdout) as Record<string, unknown>[];
  assert.deepEqual(Object.keys(container ?? {}), [
    "id",
    "podId",
    "name",
    "image",
    "imageId",
    "command",
    "state",
    "status",
    "exitCode",
    "createdAt",
    "startedAt",
    "finishedAt",
    "ports",
    "labels",
  ]);
  assert.equal(container?.["exitCode"], 3);
  assert.equal(container?.["state"], "exited");
  assert.deepEqual(container?.["command"], ["exit", "3"]);
  assert.deepEqual(container?.["ports"], ["0.0.0.0:1->2/tcp"]);
  assert.match(String(container?.["createdAt"]), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$/);
  assert.deepEqual(JSON.parse((await run(daemon, "ps", "--format", "json")).stdout), []);
  assert.match((await run(daemon, "ps", "--format", "{{.ID}}")).stderr, /no templates; use --json, and jq/);
});

test("ps --filter: one key's values are alternatives, different keys must all hold", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "web-1", "-l", "tier=front", "box", "sleep");
  await run(daemon, "run", "-d", "--name", "web-2", "-l", "tier=back", "box", "sleep");
  await run(daemon, "run", "--name", "job", "box", "exit", "0");
  const names = async (...filters: string[]): Promise<string[]> => {
    const { stdout } = await run(daemon, "ps", "--json", ...filters.flatMap((filter) => ["-f", filter]));
    return (JSON.parse(stdout) as { name: string }[]).map(({ name }) => name).toSorted();
  };
  assert.deepEqual(await names("name=web"), ["web-1", "web-2"]);
  assert.deepEqual(await names("name=web", "label=tier=back"), ["web-2"]);
  assert.deepEqual(await names("label=tier=back", "label=tier=front"), ["web-1", "web-2"]);
  assert.deepEqual(await names("status=exited"), ["job"]);
  assert.deepEqual(await names("image=box"), ["web-1", "web-2"]);
  assert.match((await run(daemon, "ps", "-f", "colour=red")).stderr, /--filter "colour=red": use id=…, name=…/);
});

test("the kubelet's containers are shown as pod/container, and what they say cannot drive the terminal", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.addContainer({
    name: "coredns",
    labels: { "io.kubernetes.pod.name": "dns-x", "io.kubernetes.container.name": "coredns" },
  });
  daemon.addContainer({ name: "\u001b[31mred\nline" });
  const { stdout } = await run(daemon, "ps");
  assert.match(stdout, /dns-x\/coredns$/m);
  assert.ok(!stdout.includes("\u001b"), stdout);
  assert.equal(stdout.split("\n").length, 4);
});

test("names: full id, then name, then the beginning of an id; several are listed", async () => {
  await using daemon = await FakeDaemon.start();
  const id = (text: string): string => text.padEnd(64, "0");
  daemon.addContainer({ id: id("abc1"), name: "one" });
  daemon.addContainer({ id: id("abc2"), name: "two" });
  daemon.addContainer({ id: id("def1"), name: "abc1" });
  const inspected = async (text: string): Promise<string> =>
    (JSON.parse((await run(daemon, "inspect", text)).stdout) as { status: { id: string } }[])[0]?.status.id ?? "";
  assert.equal(await inspected("abc1"), id("def1"));
  assert.equal(await inspected("abc2"), id("abc2"));
  assert.equal(await inspected("d"), id("def1"));
  const { stderr, code } = await run(daemon, "stop", "abc");
  assert.equal(code, 1);
  assert.equal(
    stderr,
    `berth: "abc" could be any of 2 containers: abc100000000 (one), abc200000000 (two); give more of the id\n`,
  );
  assert.match((await run(daemon, "inspect", "zzz")).stderr, /no such container, pod or image: "zzz"/);
  assert.match((await run(daemon, "rm", "")).stderr, /an empty string names no container/);
});

test("inspect: CRI status with readable times, and the verbose information", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "c", "-l", "createdAt=123", "box", "sleep");
  const [container] = JSON.parse((await run(daemon, "inspect", "c")).stdout) as {
    type: string;
    status: Record<string, unknown>;
    info: Record<string, unknown>;
  }[];
  assert.equal(container?.type, "container");
  assert.equal(container?.info["pid"], 42);
  assert.equal(container?.info["note"], "plain text");
  assert.match(String(container?.status["startedAt"]), /^\d{4}-.*Z$/);
  assert.equal(container?.status["finishedAt"], null);
  assert.deepEqual(container?.status["labels"], { createdAt: "123", "dev.berth.name": "c" });
  const [pod] = JSON.parse((await run(daemon, "inspect", "--type", "pod", "c")).stdout) as {
    type: string;
    info: object;
  }[];
  assert.deepEqual([pod?.type, pod?.info], ["pod", { netns: "/run/netns/x" }]);
  const [image] = JSON.parse((await run(daemon, "inspect", "box")).stdout) as {
    type: string;
    info: { imageSpec: object };
  }[];
  assert.deepEqual([image?.type, image?.info.imageSpec], ["image", { config: { Cmd: ["echo", "from", "image"] } }]);
  const both = await run(daemon, "inspect", "c", "nobody");
  assert.equal((JSON.parse(both.stdout) as unknown[]).length, 1);
  assert.equal(both.code, 1);
});

test("pods and pod stop, pod rm", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "web", "box", "sleep");
  const [pod] = daemon.pods.values();
  const [container] = daemon.containers.values();
  assert.match(
    (await run(daemon, "pods")).stdout,
    new RegExp(
      `^POD ID         CREATED                  STATE   NAME   NAMESPACE   IP                   RUNTIME\n${pod?.id.slice(0, 12)}   Less than a second ago   Ready   web    berth       10.88.0.7, fd00::7   \\(default\\)\n$`,
    ),
  );
  assert.deepEqual((JSON.parse((await run(daemon, "pods", "--json")).stdout) as { ips: string[] }[])[0]?.ips, [
    "10.88.0.7",
    "fd00::7",
  ]);
  assert.equal((await run(daemon, "pods", "-q")).stdout, `${pod?.id.slice(0, 12)}\n`);
  assert.match((await run(daemon, "pod", "rm", "web")).stderr, /pod web has 1 running container: use berth pod rm -f/);
  assert.equal((await run(daemon, "pod", "stop", "web")).stdout, "web\n");
  assert.equal((await run(daemon, "pod", "rm", "web")).code, 0);
  assert.equal(daemon.pods.size + daemon.containers.size, 0);
  assert.ok(!existsSync(container?.logPath ?? ""));
});

test("stop, kill and rm", async () => {
  await using daemon = await FakeDaemon.start();
  for (const name of ["a", "b", "c"]) await run(daemon, "run", "-d", "--name", name, "box", "sleep");
  assert.deepEqual(await run(daemon, "stop", "-t", "3", "a"), { code: 0, stdout: "a\n", stderr: "" });
  assert.ok(daemon.calls.includes("StopContainer 3"));
  assert.match(
    (await run(daemon, "kill", "-s", "HUP", "b")).stderr,
    /--signal HUP is not supported: the CRI has no call that sends a signal/,
  );
  assert.equal((await run(daemon, "kill", "b")).stdout, "b\n");
  assert.match((await run(daemon, "kill", "b")).stderr, /container b is not running/);
  const rm = await run(daemon, "rm", "a", "c", "nobody", "b");
  assert.equal(rm.stdout, "a\nb\n");
  assert.equal(rm.code, 1);
  assert.match(
    rm.stderr,
    /container c is running: stop it first \(berth stop c\), or use berth rm -f\nberth: no such container: "nobody"/,
  );
  assert.equal((await run(daemon, "rm", "-f", "c")).code, 0);
  assert.equal(daemon.pods.size + daemon.containers.size, 0);
  assert.match((await run(daemon, "stop", "-t", "soon", "a")).stderr, /-t: "soon" is not a whole number of seconds/);
});

test("rm of what the kubelet made leaves its pod", async () => {
  await using daemon = await FakeDaemon.start();
  const container = daemon.addContainer({ name: "theirs" });
  await run(daemon, "rm", "-f", "theirs");
  assert.ok(!daemon.containers.has(container.id));
  assert.ok(!daemon.calls.includes("RemovePodSandbox"));
});

test("images", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.addImage("registry.example.com:5000/team/app:1.2", []);
  const ids = [...daemon.images.keys()].map((id) => id.slice(7, 19));
  const { stdout } = await run(daemon, "images");
  assert.equal(
    stdout,
    `REPOSITORY                           TAG      IMAGE ID       SIZE\nbox                                  latest   ${ids[0]}   4.32MB\nregistry.example.com:5000/team/app   1.2      ${ids[1]}   4.32MB\n`,
  );
  assert.equal((await run(daemon, "images", "-q")).stdout, `${ids[0]}\n${ids[1]}\n`);
  assert.equal((await run(daemon, "images", "-q", "box")).stdout, `${ids[0]}\n`);
  assert.equal((await run(daemon, "images", "-q", "box:other")).stdout, "");
  assert.match((await run(daemon, "images", "--digests")).stdout, new RegExp(`sha256:${"d".repeat(64)}`));
  const [first] = JSON.parse((await run(daemon, "images", "--json")).stdout) as { size: number; repoTags: string[] }[];
  assert.deepEqual([first?.size, first?.repoTags], [4_321_000, ["docker.io/library/box:latest"]]);
});

test("rmi: by name, id and beginning of an id, not under a container", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "c", "box", "sleep");
  assert.match((await run(daemon, "rmi", "box")).stderr, /image box is used by container c .*berth rmi -f/);
  assert.equal((await run(daemon, "rmi", "-f", "box")).code, 0);
  const { id } = daemon.addImage("docker.io/library/two:latest", []);
  assert.equal((await run(daemon, "rmi", id.slice(7, 15))).code, 0);
  assert.equal(daemon.images.size, 0);
  assert.match((await run(daemon, "rmi", "two")).stderr, /no such image: "two"/);
});

test("load from a file and from a pipe", async () => {
  await using daemon = await FakeDaemon.start();
  const file = join(daemon.directory, "image.tar");
  writeFileSync(file, Buffer.alloc(3_000_000));
  assert.equal(
    (await run(daemon, "load", "-i", file, "--name", "x")).stdout,
    "Loaded image: docker.io/library/loaded:latest\n",
  );
  assert.deepEqual(daemon.imported, { name: "x", bytes: 3_000_000 });
  const shell = testShell();
  shell.stdin.end(Buffer.alloc(10));
  await runBerth(["-a", daemon.socket, "load", "-q"], shell);
  assert.equal(daemon.imported.bytes, 3_000_010);
  assert.match((await run(daemon, "load", "-i", "/nowhere.tar")).stderr, /cannot read \/nowhere.tar: ENOENT/);
  assert.match((await run(daemon, "load", "-i", daemon.directory)).stderr, /is a directory/);
  assert.match((await runBerth(["-a", daemon.socket, "load"], testShell({ tty: true }))).stderr, /this is a terminal/);
});

test("pull prints the reference to stdout and progress to stderr", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.pullSteps = [
    [`sha256:${"a".repeat(64)}`, "downloading", 1n, 2n],
    [`sha256:${"a".repeat(64)}`, "done", 2n, 2n],
  ];
  assert.deepEqual(await run(daemon, "pull", "thing"), {
    code: 0,
    stdout: "docker.io/library/thing:latest\n",
    stderr: "aaaaaaaaaaaa: done (2B)\n",
  });
  assert.equal((await run(daemon, "pull", "-q", "thing")).stderr, "");
  assert.match(
    (await run(daemon, "pull", "--json", "thing")).stdout,
    /"reference": "docker.io\/library\/thing:latest"/,
  );
  daemon.failures.set(
    "Pull",
    new RpcError(status.NOT_FOUND, 'image "docker.io/library/none:latest" is not in the registry'),
  );
  assert.deepEqual(await run(daemon, "pull", "none"), {
    code: 1,
    stdout: "",
    stderr: 'berth: image "docker.io/library/none:latest" is not in the registry\n',
  });
});

test("pull uses --creds, else what docker login left for that registry", async () => {
  await using daemon = await FakeDaemon.start();
  const docker = join(daemon.directory, ".docker");
  mkdirSync(docker);
  const auth = Buffer.from("me:se:cret").toString("base64");
  writeFileSync(
    join(docker, "config.json"),
    JSON.stringify({
      auths: { "https://index.docker.io/v1/": { auth }, "registry.example.com:5000": { username: "u", password: "p" } },
    }),
  );
  const who = async (...argv: string[]): Promise<string> => {
    await runBerth(["-a", daemon.socket, "pull", ...argv], testShell({ env: { HOME: daemon.directory } }));
    const { username = "", password = "", auth: basic = "" } = daemon.pullRequests.at(-1)?.auth ?? {};
    return basic === "" ? `${username}:${password}` : Buffer.from(basic, "base64").toString();
  };
  assert.equal(await who("box"), "me:se:cret");
  assert.equal(await who("registry.example.com:5000/a/b"), "u:p");
  assert.equal(await who("other.example.com/a"), ":");
  assert.equal(await who("--creds", "x:y", "box"), "x:y");
});

test("logs: streams kept apart, --tail, -t, and no log at all", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "--name", "c", "box", "both");
  assert.deepEqual(await run(daemon, "logs", "c"), { code: 0, stdout: "to stdout\n", stderr: "to stderr\n" });
  assert.deepEqual(await run(daemon, "logs", "-n", "1", "c"), { code: 0, stdout: "", stderr: "to stderr\n" });
  assert.match((await run(daemon, "logs", "-t", "c")).stdout, /^\d{4}-\d\d-\d\dT[\d:.]+Z to stdout\n$/);
  assert.equal((await run(daemon, "logs", "--since", "2999-01-01T00:00:00Z", "c")).stdout, "");
  daemon.addContainer({ name: "silent" });
  assert.match((await run(daemon, "logs", "silent")).stderr, /container silent has no log/);
});

test("logs -f follows until the container ends", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "c", "box", "sleep");
  const [container] = daemon.containers.values();
  const shell = testShell();
  const ended = runBerth(["-a", daemon.socket, "logs", "-f", "c"], shell);
  await shell.stdout.until(/sleeping/);
  container?.process.write("stdout", "awake\n");
  await shell.stdout.until(/awake/);
  container?.process.write("stdout", "last words\n");
  container?.process.end(0);
  assert.deepEqual(await ended, { code: 0, stdout: "sleeping\nawake\nlast words\n", stderr: "" });
  assert.ok(existsSync(dirname(container?.logPath ?? "")));
});

test("info, version and plan", async () => {
  await using daemon = await FakeDaemon.start();
  const info = await run(daemon, "info");
  assert.match(info.stdout, /^Client: +berth 0\.1\.0\nServer: +berthd 9\.9\.9, pid 1234, at /);
  assert.match(info.stdout, /^Handlers: +\(default\), runc$/m);
  assert.equal(info.stderr, "berth: warning: no swap accounting\n");
  assert.equal(info.code, 0);
  daemon.failures.set("NetworkReady", new RpcError(status.UNKNOWN, ""));
  assert.equal((await run(daemon, "info", "--json")).code, 1);
  assert.equal((await run(daemon, "version")).stdout, "Client: berth 0.1.0\nServer: berth 9.9.9, CRI v1\n");
  await run(daemon, "run", "-d", "--name", "c", "box", "sleep");
  assert.equal(
    (await run(daemon, "plan", "c")).stdout,
    "#   WHERE   BECAUSE            ORDER\n1   stage   linux.namespaces   make a process\n",
  );
  assert.deepEqual(JSON.parse((await run(daemon, "plan", "--json", "c")).stdout), [
    { where: "stage", order: "clone", words: "make a process", because: "linux.namespaces" },
  ]);
});

test("plan of a bundle needs no berthd, and tells what is wrong with it", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "berth-bundle-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const plan = (...argv: string[]) => runBerth(["-a", "/nowhere.sock", "plan", ...argv]);
  assert.match(
    (await plan(directory)).stderr,
    /^berth: .*config\.json does not exist; a bundle is a directory with a config\.json\n$/,
  );
  const write = (spec: unknown): void => writeFileSync(join(directory, "config.json"), JSON.stringify(spec));
  const spec = {
    ociVersion: "1.3.0",
    root: { path: "rootfs" },
    process: { user: { uid: 0, gid: 0 }, args: ["/bin/true"], cwd: "/" },
    linux: { namespaces: [{ type: "mount" }] },
  };
  write(spec);
  const { stdout, code } = await plan(directory);
  assert.equal(code, 0);
  assert.match(stdout, /^#  +WHERE  +BECAUSE  +ORDER\n1 /);
  assert.match(stdout, /container +process\.args +exec \/bin\/true\n$/);
  const lines = JSON.parse((await runBerth(["plan", "./", "--json"], testShell({ cwd: directory }))).stdout) as {
    order: string;
  }[];
  assert.equal(lines.at(-1)?.order, "exec");
  write({ ...spec, process: { ...spec.process, cwd: "relative" } });
  assert.match((await plan(directory)).stderr, /^berth: .*\/config\.json: process\.cwd: /);
});

test("stats: CPU between two looks, by the server's clock", async () => {
  await using daemon = await FakeDaemon.start();
  const at = (seconds: number, used: number): cri.ContainerStats =>
    create(cri.ContainerStatsSchema, {
      attributes: { id: "c".repeat(64), metadata: { name: "busy" } },
      cpu: { timestamp: BigInt(seconds * 1e9), usageCoreNanoSeconds: { value: BigInt(used * 1e9) } },
      memory: { workingSetBytes: { value: 3n << 20n } },
    });
  daemon.stats = [[at(10, 1)], [at(12, 4)]];
  const [row] = JSON.parse((await run(daemon, "stats", "--json")).stdout) as Record<string, unknown>[];
  assert.deepEqual(
    [row?.["name"], row?.["cpuPercent"], row?.["memoryWorkingSet"], row?.["writableLayer"]],
    ["busy", 150, 3 << 20, null],
  );
});
