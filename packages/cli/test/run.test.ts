import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { FakeDaemon, RpcError, runBerth, testShell } from "./double/index.ts";

const run = (daemon: FakeDaemon, ...argv: string[]) => runBerth(["-a", daemon.socket, ...argv]);

test("run prints the container's output and ends with its exit code", async () => {
  await using daemon = await FakeDaemon.start();
  assert.deepEqual(await run(daemon, "run", "--name", "a", "box", "echo", "hello"), {
    code: 0,
    stdout: "hello\n",
    stderr: "",
  });
  assert.equal((await run(daemon, "run", "box", "exit", "42")).code, 42);
  assert.deepEqual(await run(daemon, "run", "box", "both"), { code: 0, stdout: "to stdout\n", stderr: "to stderr\n" });
  assert.equal((await run(daemon, "run", "box")).stdout, "from image\n");
});

test("run attaches before it starts, and starts once output flows", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "--rm", "box", "echo", "x");
  assert.ok(daemon.calls.indexOf("Attach") < daemon.calls.indexOf("StartContainer"), daemon.calls.join(" "));
});

test("options end at the image", async () => {
  await using daemon = await FakeDaemon.start();
  assert.equal(
    (await run(daemon, "run", "--rm", "box", "echo", "--rm", "-d", "-it", "--", "x")).stdout,
    "--rm -d -it -- x\n",
  );
});

test("run --rm leaves no container, pod or log", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "--name", "kept", "box", "echo", "x");
  const kept = [...daemon.containers.values()][0];
  assert.equal((await run(daemon, "run", "--rm", "box", "exit", "3")).code, 3);
  assert.deepEqual([...daemon.containers.values()], [kept]);
  assert.equal(daemon.pods.size, 1);
  assert.ok(existsSync(kept?.logPath ?? ""));
  await run(daemon, "rm", "kept");
  assert.equal(daemon.pods.size + daemon.containers.size, 0);
  assert.ok(!existsSync(kept?.logPath ?? ""), "the log goes with its container");
});

test("run -d prints the id and leaves the container running; --rm is then berthd's", async () => {
  await using daemon = await FakeDaemon.start();
  const { stdout, code } = await run(daemon, "run", "-d", "--rm", "--name", "bg", "box", "sleep");
  const [container] = daemon.containers.values();
  assert.equal(stdout, `${container?.id}\n`);
  assert.equal(code, 0);
  assert.ok(container?.process.running);
  assert.equal([...daemon.pods.values()][0]?.config.annotations["dev.berth.auto-remove"], "true");
});

test("a name is had once", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "web", "box", "sleep");
  const { code, stderr } = await run(daemon, "run", "-d", "--name", "web", "box", "sleep");
  assert.equal(code, 125);
  assert.match(stderr, /^berth: the name "web" is taken: .*berth rm web/);
  assert.equal(daemon.pods.size, 1);
});

test("a command that is not there ends with 127, one that cannot be executed with 126, and nothing stays", async () => {
  await using daemon = await FakeDaemon.start();
  const missing = await run(daemon, "run", "box", "missing");
  assert.equal(missing.code, 127);
  assert.equal(missing.stderr, "berth: exec missing: ENOENT (no such file or directory)\n");
  assert.equal((await run(daemon, "run", "-d", "box", "denied")).code, 126);
  assert.equal(daemon.pods.size + daemon.containers.size, 0);
});

test("berth's own failures end with 125, and what was made is undone", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.failures.set(
    "CreateContainer",
    new RpcError(status.INVALID_ARGUMENT, 'config.mounts[0].host_path: "/x" does not exist'),
  );
  const { code, stderr } = await run(daemon, "run", "-v", "/x:/x", "box");
  assert.equal(code, 125);
  assert.equal(stderr, 'berth: config.mounts[0].host_path: "/x" does not exist\n');
  assert.equal(daemon.pods.size, 0);
  assert.equal((await run(daemon, "run", "--bad", "box")).code, 125);
  assert.equal((await runBerth(["-a", "/nowhere/berth.sock", "run", "box"])).code, 125);
  assert.equal((await runBerth(["-a", "/nowhere/berth.sock", "ps"])).code, 1);
});

test("a clean-up that fails is told with what it cleaned up after", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.failures.set("CreateContainer", new RpcError(status.UNKNOWN, "disk full"));
  daemon.failures.set("StopPodSandbox", new RpcError(status.UNKNOWN, "busy"));
  assert.equal((await run(daemon, "run", "box")).stderr, "berth: disk full; and it could not be cleaned up: busy\n");
});

test("run -i gives the container its input, to the end of it", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = testShell();
  shell.stdin.end("through the pipe\n");
  const { stdout, code } = await runBerth(["-a", daemon.socket, "run", "--rm", "-i", "box", "cat"], shell);
  assert.deepEqual([stdout, code], ["through the pipe\n", 0]);
});

test("without -i the container gets no input, and the input is not read", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = testShell();
  shell.stdin.write("not for the container");
  await runBerth(["-a", daemon.socket, "run", "--rm", "box", "echo", "x"], shell);
  assert.equal(shell.stdin.read()?.toString(), "not for the container");
});

test("run -it: raw mode while it lasts, and the window's size, also as it changes", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = testShell({ tty: true });
  const ended = runBerth(["-a", daemon.socket, "run", "--rm", "-it", "box", "size"], shell);
  await shell.stdout.until(/80x24/);
  assert.deepEqual(shell.modes, [true]);
  shell.stdout.columns = 120;
  shell.stdout.emit("resize");
  assert.equal((await ended).stdout, "80x24\n120x24\n");
  assert.deepEqual(shell.modes, [true, false]);
});

test("-it needs a terminal", async () => {
  await using daemon = await FakeDaemon.start();
  const { code, stderr } = await run(daemon, "run", "-it", "box");
  assert.equal(code, 125);
  assert.match(stderr, /needs a terminal/);
  assert.deepEqual(daemon.calls, []);
});

test("ctrl-p ctrl-q leaves the container running", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = testShell({ tty: true });
  const ended = runBerth(["-a", daemon.socket, "run", "-it", "--name", "left", "box", "cat"], shell);
  shell.stdin.write("x");
  await shell.stdout.until(/x/);
  shell.stdin.write("\u0010\u0011");
  const { code, stderr } = await ended;
  assert.equal(code, 0);
  assert.match(stderr, /left left running; back to it with: berth attach left/);
  assert.ok([...daemon.containers.values()][0]?.process.running);
});

test("the first Ctrl-C stops the container with a grace period, the second without", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = testShell();
  const ended = runBerth(["-a", daemon.socket, "run", "box", "sleep"], shell);
  await shell.stdout.until(/sleeping/);
  const [container] = daemon.containers.values();
  assert.ok(container);
  const stops: bigint[] = [];
  container.process.stop = (timeout) => {
    stops.push(timeout);
    if (timeout === 0n) container.process.end(137);
  };
  shell.signals.emit("SIGINT");
  while (stops.length === 0) await new Promise(setImmediate);
  shell.signals.emit("SIGINT");
  assert.equal((await ended).code, 137);
  assert.deepEqual(stops, [10n, 0n]);
  assert.equal(shell.signals.listenerCount("SIGINT"), 0);
});

test("--sig-proxy=false leaves signals alone", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = testShell();
  const ended = runBerth(["-a", daemon.socket, "run", "--sig-proxy=false", "box", "sleep"], shell);
  await shell.stdout.until(/sleeping/);
  assert.equal(shell.signals.listenerCount("SIGINT"), 0);
  [...daemon.containers.values()][0]?.process.end(0);
  assert.equal((await ended).code, 0);
});

test("Ctrl-C during the pull ends berth as Ctrl-C ends a program, and makes nothing", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = testShell();
  const held = Promise.withResolvers<void>();
  daemon.pullSteps = [["layer", "exists", 1n, 1n], held.promise];
  const ended = runBerth(["-a", daemon.socket, "run", "absent"], shell);
  await shell.stderr.until(/layer/);
  shell.signals.emit("SIGINT");
  const { code, stderr } = await ended;
  held.resolve();
  assert.equal(code, 130);
  assert.match(stderr, /berth: interrupted\n$/);
  assert.equal(daemon.pods.size, 0);
});

test("an image that is not here is pulled, unless --pull never", async () => {
  await using daemon = await FakeDaemon.start();
  const pulled = await run(daemon, "run", "--rm", "other");
  assert.equal(pulled.stdout, "pulled\n");
  assert.match(pulled.stderr, /^image other is not here yet: pulling it\n/);
  assert.equal((await run(daemon, "run", "--rm", "other")).stderr, "");
  assert.equal(daemon.pullRequests.length, 1);
  await run(daemon, "run", "--rm", "--pull", "always", "other");
  assert.equal(daemon.pullRequests.length, 2);
  const never = await run(daemon, "run", "--pull", "never", "third");
  assert.equal(never.code, 125);
  assert.match(never.stderr, /image "third" is not here/);
});

test("a lost connection is told, and the container is still waited for", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = testShell();
  const ended = runBerth(["-a", daemon.socket, "run", "--name", "lost", "box", "sleep"], shell);
  await shell.stdout.until(/sleeping/);
  const [container] = daemon.containers.values();
  container?.process.dropPeers();
  await shell.stderr.until(/the connection was lost.*berth logs -f lost/);
  container?.process.end(5);
  assert.equal((await ended).code, 5);
});

test("create, start, wait", async () => {
  await using daemon = await FakeDaemon.start();
  const { stdout: id } = await run(daemon, "create", "--name", "c", "box", "exit", "7");
  assert.deepEqual(await run(daemon, "start", "c"), { code: 0, stdout: "c\n", stderr: "" });
  assert.equal((await run(daemon, "wait", id.slice(0, 8))).stdout, "7\n");
  assert.match((await run(daemon, "start", "c")).stderr, /has ended, and the CRI cannot start it again/);
  await run(daemon, "create", "--name", "d", "box", "exit", "9");
  assert.equal((await run(daemon, "start", "-a", "d")).code, 9);
});

test("attach shows what comes from now on and ends with the container's exit code", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "-i", "--name", "c", "box", "cat");
  const shell = testShell();
  const ended = runBerth(["-a", daemon.socket, "attach", "c"], shell);
  shell.stdin.end("hello\n");
  assert.deepEqual(await ended, { code: 0, stdout: "hello\n", stderr: "" });
  assert.match((await run(daemon, "attach", "c")).stderr, /is not running; see what it wrote with: berth logs c/);
});

test("exec: output, input, exit codes and refusals", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "c", "box", "sleep");
  assert.deepEqual(await run(daemon, "exec", "c", "both"), { code: 0, stdout: "to stdout\n", stderr: "to stderr\n" });
  assert.equal((await run(daemon, "exec", "c", "exit", "33")).code, 33);
  assert.equal((await run(daemon, "exec", "c", "missing")).code, 127);
  assert.equal((await run(daemon, "exec", "c", "denied")).code, 126);
  const shell = testShell();
  shell.stdin.end("in");
  assert.equal((await runBerth(["-a", daemon.socket, "exec", "-i", "c", "cat"], shell)).stdout, "in");
  for (const refused of [["-e", "A=1"], ["-w", "/x"], ["-u", "me"], ["-d"], ["--privileged"], ["--env-file", "f"]]) {
    const { code, stderr } = await run(daemon, "exec", ...refused, "c", "echo");
    assert.equal(code, 1);
    assert.match(stderr, /^berth: --[a-z-]+ is not supported: the CRI's Exec /);
  }
  assert.match((await run(daemon, "exec", "nobody", "echo")).stderr, /no such container: "nobody"; see "berth ps -a"/);
});

test("--env-file and -e reach the container, -e last", async () => {
  await using daemon = await FakeDaemon.start();
  const file = join(daemon.directory, "env");
  writeFileSync(file, "# comment\nA=1\nB=two words\n\nHOST_VALUE\n");
  const shell = testShell({ env: { HOST_VALUE: "from the shell" } });
  await runBerth(["-a", daemon.socket, "run", "--env-file", file, "-e", "A=2", "-e", "UNSET", "box"], shell);
  const envs = [...daemon.containers.values()][0]?.config.envs.map(
    ({ key, value }) => `${key}=${Buffer.from(value).toString()}`,
  );
  assert.deepEqual(envs, ["A=2", "B=two words", "HOST_VALUE=from the shell"]);
});

test("--rm that fails is told, and the exit code stays the container's", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.failures.set("RemovePodSandbox", new RpcError(status.UNKNOWN, "busy"));
  const { code, stderr } = await run(daemon, "run", "--rm", "--name", "sticky", "box", "exit", "4");
  assert.equal(code, 4);
  assert.equal(stderr, "berth: could not remove sticky: busy; try again with: berth rm -f sticky\n");
});
