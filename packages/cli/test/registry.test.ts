/** Commands that reach registries: push, tag, login, logout, and `berth image`. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { berth } from "@berth/spec";
import { FakeDaemon, runBerth, testShell } from "./double/index.ts";

const run = (daemon: FakeDaemon, ...argv: string[]) => runBerth(["-a", daemon.socket, ...argv], shellOf(daemon));
const shellOf = (daemon: FakeDaemon, options: Parameters<typeof testShell>[0] = {}): ReturnType<typeof testShell> =>
  testShell({ env: { HOME: daemon.directory }, ...options });
const DIGEST = `sha256:${"d".repeat(64)}`;

test("push: progress on stderr, the digest on stdout", async () => {
  await using daemon = await FakeDaemon.start();
  const pushed = await run(daemon, "push", "--creds", "u:p", "r.example/app:1");
  assert.deepEqual(pushed, {
    code: 0,
    stdout: `${DIGEST}\n`,
    stderr: "111111111111: done (5B)\n222222222222: mounted (7B)\n",
  });
  const [request] = daemon.registryRequests as berth.PushRequest[];
  assert.deepEqual(
    [request?.image, request?.auth?.username, request?.auth?.password, request?.nondistributable],
    ["r.example/app:1", "u", "p", false],
  );
  const json = await run(daemon, "image", "push", "--json", "--allow-nondistributable-artifacts", "app");
  assert.deepEqual(JSON.parse(json.stdout), { digest: DIGEST, reference: "app" });
  assert.equal(json.stderr, "");
  assert.equal((daemon.registryRequests[1] as berth.PushRequest).nondistributable, true);
});

test("tag, on its own and below image", async () => {
  await using daemon = await FakeDaemon.start();
  assert.deepEqual(await run(daemon, "tag", "box", "r.example/box:2"), { code: 0, stdout: "", stderr: "" });
  assert.deepEqual((await run(daemon, "image", "tag", "box", "box:3")).code, 0);
  assert.deepEqual([...daemon.images.values()][0]?.tags, ["docker.io/library/box:latest", "r.example/box:2", "box:3"]);
  assert.deepEqual(await run(daemon, "tag", "none", "x"), {
    code: 1,
    stdout: "",
    stderr: "berth: no such image: none\n",
  });
  assert.match((await run(daemon, "tag", "box")).stderr, /missing required argument 'target'/);
});

test("login: kept once the registry takes it, used by pull, forgotten by logout", async () => {
  await using daemon = await FakeDaemon.start();
  const config = join(daemon.directory, ".docker", "config.json");
  const wrong = shellOf(daemon);
  wrong.stdin.end("wrong\n");
  const refused = await runBerth(["-a", daemon.socket, "login", "-u", "me", "--password-stdin", "r.example"], wrong);
  assert.deepEqual(refused, { code: 1, stdout: "", stderr: "berth: does not take this login\n" });
  const right = shellOf(daemon);
  right.stdin.end("right\n");
  const taken = await runBerth(["-a", daemon.socket, "login", "-u", "me", "--password-stdin", "r.example"], right);
  assert.equal(taken.stdout, "Login Succeeded\n");
  assert.match(taken.stderr, new RegExp(`stored unencrypted in ${config}`));
  const auth = Buffer.from("me:right").toString("base64");
  assert.deepEqual(JSON.parse(readFileSync(config, "utf8")), { auths: { "r.example": { auth } } });
  assert.equal((await run(daemon, "login", "r.example")).code, 1, "the double knows passwords only");
  await run(daemon, "pull", "r.example/app");
  const sent = daemon.pullRequests.at(-1)?.auth;
  assert.deepEqual([sent?.auth, sent?.serverAddress], [auth, "r.example"]);
  assert.equal((await run(daemon, "logout", "r.example")).stdout, "Removing login credentials for r.example\n");
  assert.equal((await run(daemon, "logout", "r.example")).stdout, "Not logged in to r.example\n");
  await run(daemon, "pull", "r.example/app");
  assert.equal(daemon.pullRequests.at(-1)?.auth, undefined);
});

test("login asks at a terminal, and shows nothing of the password", async () => {
  await using daemon = await FakeDaemon.start();
  const shell = shellOf(daemon, { tty: true });
  const done = runBerth(["-a", daemon.socket, "login"], shell);
  await shell.stderr.until(/Enter Username: /);
  shell.stdin.write("me\n");
  await shell.stderr.until(/Enter Password: /);
  shell.stdin.write("rigX\u007f");
  shell.stdin.write("ht\r");
  const { code, stdout, stderr } = await done;
  assert.deepEqual([code, stdout, shell.modes], [0, "Login Succeeded\n", [true, false]]);
  assert.ok(!stderr.includes("rig"));
  const [request] = daemon.registryRequests as berth.LoginRequest[];
  assert.deepEqual([request?.server, request?.auth?.username, request?.auth?.password], ["docker.io", "me", "right"]);
  await run(daemon, "logout");
  const nobody = await run(daemon, "login");
  assert.match(nobody.stderr, /stdin is no terminal to ask at: give --username, and --password-stdin/);
  assert.match((await run(daemon, "login", "--password-stdin")).stderr, /--password-stdin needs --username/);
  assert.match((await run(daemon, "login", "-u", "a", "-p", "b", "--password-stdin")).stderr, /exclude each other/);
});

test("a credential helper is asked, and its failure told", async () => {
  await using daemon = await FakeDaemon.start();
  mkdirSync(join(daemon.directory, ".docker"));
  writeFileSync(join(daemon.directory, ".docker", "config.json"), '{"credsStore":"pass"}');
  const asked: string[] = [];
  const shell = shellOf(daemon, {
    run: (argv, stdin) => {
      asked.push(`${argv.join(" ")} ${stdin}`);
      return Promise.resolve({ status: 0, stdout: '{"Username":"u","Secret":"s"}', stderr: "" });
    },
  });
  await runBerth(["-a", daemon.socket, "pull", "app"], shell);
  assert.deepEqual(asked, ["docker-credential-pass get https://index.docker.io/v1/"]);
  assert.equal(daemon.pullRequests[0]?.auth?.username, "u");
  assert.deepEqual(await run(daemon, "pull", "app"), {
    code: 1,
    stdout: "",
    stderr: "berth: docker-credential-pass get failed: spawn docker-credential-pass ENOENT\n",
  });
});

test("image pulls: what is under way, whoever asked for it", async () => {
  await using daemon = await FakeDaemon.start();
  assert.equal(
    (await run(daemon, "image", "pulls")).stdout,
    "IMAGE             LAYERS   SIZE\nr.example/app:1   1/2      1.5kB / 2kB\n",
  );
  assert.deepEqual(JSON.parse((await run(daemon, "image", "pulls", "--json")).stdout), [
    {
      reference: "r.example/app:1",
      startedAt: "2026-01-02T03:04:05.000000000Z",
      layers: 2,
      layersDone: 1,
      doneBytes: 1500,
      totalBytes: 2000,
    },
  ]);
});

test("image: its commands are those that stand alone, and copy, tags, referrers", async () => {
  await using daemon = await FakeDaemon.start();
  assert.match((await run(daemon, "image", "ls")).stdout, /^REPOSITORY +TAG/);
  const copied = await run(
    daemon,
    "image",
    "copy",
    "-a",
    "--src-creds",
    "a:b",
    "--dest-creds",
    "c:d",
    "x",
    "r.example/x",
  );
  assert.deepEqual([copied.code, copied.stdout], [0, `${DIGEST}\n`]);
  const [copy] = daemon.registryRequests as berth.CopyRequest[];
  assert.deepEqual(
    [copy?.source, copy?.destination, copy?.all, copy?.sourceAuth?.username, copy?.destinationAuth?.password],
    ["x", "r.example/x", true, "a", "d"],
  );
  assert.equal((await run(daemon, "image", "tags", "r.example/x")).stdout, "1.0\nlatest\n");
  assert.deepEqual(JSON.parse((await run(daemon, "image", "tags", "--json", "x")).stdout), ["1.0", "latest"]);
  const digest = `sha256:${"a".repeat(64)}`;
  assert.equal(
    (await run(daemon, "image", "referrers", "--artifact-type", "test/sig", "x")).stdout,
    `DIGEST${" ".repeat(68)}TYPE       SIZE\n${digest}   test/sig   1.23kB\n`,
  );
  assert.deepEqual(JSON.parse((await run(daemon, "image", "referrers", "--json", "x")).stdout), [
    { digest, mediaType: "m", artifactType: "test/sig", size: 1234, annotations: { a: "b" } },
  ]);
  assert.match((await run(daemon, "image", "build")).stderr, /unknown command 'build'/);
  assert.match((await run(daemon, "image", "copy", "Not A Name", "x")).stderr, /invalid image reference/);
});
