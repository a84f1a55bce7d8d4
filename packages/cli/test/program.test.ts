import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { chosenAddress } from "../src/address.ts";
import { CallError, DaemonUnreachable, unreachable } from "../src/call-error.ts";
import { connect } from "../src/client.ts";
import { verbOf } from "../src/program.ts";
import { VERBS } from "../src/verbs.ts";
import { FakeDaemon, runBerth, testShell } from "./double/index.ts";

test("every command has help that names its options, and describes itself as the list does", async () => {
  const { stdout } = await runBerth(["--help"]);
  for (const { name, summary } of VERBS) {
    assert.match(stdout, new RegExp(`^  ${name} +${summary}$`, "m"));
    const help = await runBerth([name, "--help"]);
    assert.equal(help.code, 0, name);
    assert.match(help.stdout, /--help/, name);
    const asked = await runBerth(["help", name]);
    assert.match(asked.stdout, new RegExp(`^Usage: berth ${name} `), name);
    // crictl's own help is crictl's.
    if (name === "crictl") assert.match(help.stdout, /^NAME:\n {3}crictl /);
    else assert.deepEqual(asked, help);
  }
});

test("no arguments print the help", async () => {
  const { code, stdout, stderr } = await runBerth([]);
  assert.deepEqual([code, stderr], [0, ""]);
  assert.match(stdout, /^Usage: berth \[options\] COMMAND/);
});

test("the command is found behind berth's own options", () => {
  assert.equal(verbOf(["-a", "ps", "run", "ps"]), "run");
  assert.equal(verbOf(["--address=/x", "ps"]), "ps");
  assert.equal(verbOf(["-H", "/x", "images"]), "images");
  assert.equal(verbOf(["help", "ps"]), "ps");
  assert.equal(verbOf(["--version"]), undefined);
  assert.equal(verbOf(["nonsense", "run"]), undefined);
});

test("wrong usage: one line, the right exit code", async () => {
  for (const [argv, code, pattern] of [
    [["psx"], 1, /^berth: unknown command 'psx' \(Did you mean ps\?\); see berth --help\n$/],
    [["ps", "--what"], 1, /^berth: unknown option '--what'; see berth ps --help\n$/],
    [["run"], 125, /^berth: missing required argument 'image'; see berth run --help\n$/],
    [["run", "--pull", "maybe", "x"], 125, /'maybe' is invalid/],
    [["ps", "extra"], 1, /too many arguments/],
    [["pod"], 1, /a command is missing; see berth pod --help/],
    [["-a", "relative", "ps"], 1, /address "relative" is not a unix socket/],
    [["-a", "/x", "-H", "/y", "ps"], 1, /--address and --host name the same thing/],
  ] as const) {
    const outcome = await runBerth(argv);
    assert.match(outcome.stderr, pattern);
    assert.deepEqual([outcome.code, outcome.stdout], [code, ""], argv.join(" "));
  }
});

test("where berthd is: option, BERTH_ADDRESS, CONTAINER_RUNTIME_ENDPOINT, default", () => {
  const env = { BERTH_ADDRESS: "/b", CONTAINER_RUNTIME_ENDPOINT: "unix:///c" };
  assert.equal(chosenAddress("unix:///o", env), "/o");
  assert.equal(chosenAddress("unix:/o", env), "/o");
  assert.equal(chosenAddress(undefined, env), "/b");
  assert.equal(chosenAddress(undefined, { ...env, BERTH_ADDRESS: "" }), "/c");
  assert.equal(chosenAddress(undefined, {}), "/run/berth/berth.sock");
});

test("--host and the environment reach the daemon", async () => {
  await using daemon = await FakeDaemon.start();
  assert.equal((await runBerth(["-H", `unix://${daemon.socket}`, "ps", "-q"])).code, 0);
  assert.equal((await runBerth(["ps", "-q"], testShell({ env: { BERTH_ADDRESS: daemon.socket } }))).code, 0);
});

test("no berthd: what is wrong with the socket, and what to do", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "berth-cli-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const say = async (path: string): Promise<string> => (await runBerth(["-a", path, "ps"])).stderr;
  assert.match(
    await say(join(directory, "none")),
    /^berth: berthd is not running: there is no socket .*; start it with "sudo berthd", or name another socket with --address\n$/,
  );
  const left = join(directory, "left");
  const server = createServer().listen(left);
  await once(server, "listening");
  // A socket file that nobody listens at any more, as after a crash.
  const child = spawn(process.execPath, [
    "-e",
    `require("net").createServer().listen(${JSON.stringify(join(directory, "dead"))}, () => process.kill(process.pid, "SIGKILL"))`,
  ]);
  await once(child, "exit");
  assert.match(
    await say(join(directory, "dead")),
    /berthd is not running: nobody listens at .*start it with "sudo berthd"/,
  );
  server.close();
  const file = join(directory, "file");
  writeFileSync(file, "");
  chmodSync(file, 0o600);
  assert.match(await say(file), /^berth: /);
  assert.match(unreachable("/s", "connect EACCES /s")?.message ?? "", /no permission to use \/s: run berth as root/);
  assert.equal(unreachable("/s", "stream reset"), undefined);
});

test("the client: errors have the call and its code, deadlines and signals end calls", async () => {
  await using daemon = await FakeDaemon.start();
  using client = connect(daemon.socket);
  await assert.rejects(
    client.runtime.containerStatus({ containerId: "nobody" }),
    (error) => error instanceof CallError && error.call === "ContainerStatus" && error.codeName === "NOT_FOUND",
  );
  await assert.rejects(
    client.runtime.portForward({}),
    (error) => error instanceof CallError && error.codeName === "UNIMPLEMENTED",
  );
  daemon.pullSteps = [["a", "waiting", 0n, 0n], Promise.withResolvers<void>().promise];
  const controller = new AbortController();
  const pull = async (): Promise<void> => {
    for await (const _ of client.berth.pull({ image: "x" }, { signal: controller.signal })) controller.abort();
  };
  await assert.rejects(pull(), (error) => error instanceof CallError && error.codeName === "CANCELLED");
  const late = async (): Promise<void> => {
    for await (const _ of client.berth.pull({ image: "x" }, { timeout: 50 })) continue;
  };
  await assert.rejects(late(), (error) => error instanceof CallError && error.codeName === "DEADLINE_EXCEEDED");
  await assert.rejects(connect("/nowhere.sock").runtime.version({}), DaemonUnreachable);
});

test("the real process: exit code, and a reader that has seen enough", async () => {
  await using daemon = await FakeDaemon.start();
  const main = new URL("../src/main.ts", import.meta.url).pathname;
  const start = (...argv: string[]) =>
    spawn(process.execPath, ["--disable-warning=ExperimentalWarning", main, "-a", daemon.socket, ...argv], {
      stdio: ["pipe", "pipe", "pipe"],
    });
  const child = start("run", "--rm", "box", "exit", "17");
  assert.deepEqual(await once(child, "exit"), [17, null]);
  const help = start("--help");
  help.stdout.destroy();
  const [code] = (await once(help, "exit")) as [number];
  assert.ok(code === 141 || code === 0, `${code}`);
});

test("a container whose output nobody reads any more is stopped and, with --rm, removed", async () => {
  await using daemon = await FakeDaemon.start();
  const main = new URL("../src/main.ts", import.meta.url).pathname;
  const child = spawn(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", main, "-a", daemon.socket, "run", "--rm", "box", "sleep"],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  await once(child.stdout, "data");
  child.stdout.destroy();
  const [container] = daemon.containers.values();
  // The pipe's end shows at a write.
  const writing = setInterval(
    () => (container?.process.running ? container.process.write("stdout", "more\n") : undefined),
    5,
  );
  const [code] = (await once(child, "exit")) as [number];
  clearInterval(writing);
  assert.equal(code, 143);
  assert.ok(daemon.calls.includes("StopContainer 10"));
  assert.equal(daemon.pods.size + daemon.containers.size, 0);
});
