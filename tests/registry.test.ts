/** berthd and berth with a real registry, as their users have them. Needs root and Debian's docker-registry. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { after, before, describe, test } from "node:test";
import { connect as connectBerth } from "@berth/cli";
import { status as codes } from "@grpc/grpc-js";
import { checkout, IMAGE, TestDaemon } from "./support/daemon.ts";

const missing = ["docker-registry", "htpasswd"].filter(
  (program) => spawnSync("sh", ["-c", `command -v ${program}`]).status !== 0,
);

describe("a registry with logins", missing.length === 0 ? {} : { skip: `not installed: ${missing.join(", ")}` }, () => {
  let daemon: TestDaemon;
  let registry: ChildProcess;
  let host = "";
  const berth = (argv: readonly string[], stdin = ""): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(`${checkout}/bin/berth`, ["--address", daemon.socket, ...argv], {
      encoding: "utf8",
      input: stdin,
      env: { ...process.env, DOCKER_CONFIG: `${daemon.dir}/docker` },
    });
  const succeed = (...argv: string[]): string => {
    const { status, stdout, stderr } = berth(argv);
    assert.equal(status, 0, stderr);
    return stdout;
  };

  before(async () => {
    daemon = await TestDaemon.start({
      config: `version = 3\n[plugins."io.containerd.cri.v1.images"]\nmax_concurrent_downloads = 2\n`,
    });
    await daemon.kill("SIGTERM");
    mkdirSync(`${daemon.dir}/verifiers`);
    const accept = [{ type: "insecureAcceptAnything" }];
    const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const keyData = Buffer.from(publicKey.export({ type: "spki", format: "pem" })).toString("base64");
    ({ host, registry } = await startRegistry(daemon.dir));
    const docker = { [`${host}/signed`]: [{ type: "sigstoreSigned", keyData }] };
    writeFileSync(`${daemon.dir}/policy.json`, JSON.stringify({ default: accept, transports: { docker } }));
    await daemon.startAgain({ args: ["--signature-policy", `${daemon.dir}/policy.json`] });
  });
  after(async () => {
    const gone = new Promise((resolve) => registry.once("exit", resolve));
    registry.kill("SIGKILL");
    await gone;
    await daemon[Symbol.asyncDispose]();
  });

  test("login, tag, push, tags, copy, pull, logout", async () => {
    const name = `${host}/team/box:1`;
    succeed("tag", IMAGE, name);
    assert.match(berth(["push", name]).stderr, /push access denied .*; may need a login/);
    assert.match(
      berth(["login", "-u", "user", "--password-stdin", host], "wrong\n").stderr,
      /does not take this login/,
    );
    const login = berth(["login", "-u", "user", "--password-stdin", host], "secret\n");
    assert.deepEqual([login.status, login.stdout], [0, "Login Succeeded\n"]);
    const digest = succeed("push", name).trim();
    assert.match(digest, /^sha256:[0-9a-f]{64}$/);
    assert.equal(succeed("image", "copy", name, `${host}/other/box:2`).trim(), digest);
    assert.equal(succeed("image", "tags", `${host}/other/box`), "2\n");
    assert.equal(succeed("image", "referrers", `${host}/other/box:2`).split("\n").length, 2);
    succeed("rmi", "-f", name);
    assert.equal(succeed("pull", `${host}/other/box@${digest}`), `${host}/other/box@${digest}\n`);
    assert.deepEqual(JSON.parse(succeed("image", "pulls", "--json")), []);
    succeed("logout", host);
    assert.deepEqual(JSON.parse(readFileSync(`${daemon.dir}/docker/config.json`, "utf8")), { auths: {} });
    assert.match(berth(["pull", name]).stderr, /pull access denied .*; may need a login/);
  });

  test("a kubelet's credentials, and the codes that it gets", async () => {
    using client = connectBerth(daemon.socket);
    const { images } = client;
    const auth = { username: "user", password: "secret" };
    const pull = (image: string, credentials?: typeof auth): Promise<unknown> =>
      images.pullImage({ image: { image }, ...(credentials && { auth: credentials }) });
    await pull(`${host}/team/box:1`, auth);
    const refused = (code: codes, message: RegExp) => (error: unknown) => {
      const { code: actual, message: details } = error as { code: number; message: string };
      assert.equal(codes[actual], codes[code], details);
      assert.match(details, message);
      return true;
    };
    await assert.rejects(pull(`${host}/team/box:1`), refused(codes.PERMISSION_DENIED, /may need a login/));
    await assert.rejects(pull(`${host}/team/box:9`, auth), refused(codes.NOT_FOUND, /^not found: /));
    await assert.rejects(pull("Not:A/Name"), refused(codes.INVALID_ARGUMENT, /Not:A\/Name/));
    await assert.rejects(pull("127.0.0.1:1/a"), refused(codes.UNKNOWN, /^RegistryUnavailable: .*connection refused/));
    await assert.rejects(
      pull(`${host}/signed/box:1`, auth),
      refused(codes.NOT_FOUND, /not found/),
      "what is not there has no signature to miss",
    );
  });

  test("what must be signed and is not is refused in the kubelet's words", async () => {
    const name = `${host}/signed/box:1`;
    berth(["login", "-u", "user", "--password-stdin", host], "secret\n");
    succeed("tag", `${host}/team/box:1`, name);
    succeed("push", name);
    const { status, stderr } = berth(["pull", name]);
    assert.equal(status, 1);
    assert.match(
      stderr,
      /^berth: SignatureValidationFailed: image .*signed\/box:1 is refused by the signature policy .*policy\.json: it must be signed, and there is no signature$/m,
    );
  });
});

async function startRegistry(dir: string): Promise<{ host: string; registry: ChildProcess }> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  writeFileSync(`${dir}/htpasswd`, execFileSync("htpasswd", ["-Bbn", "user", "secret"]));
  const config = `version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: ${dir}/registry\nhttp:\n  addr: 127.0.0.1:${port}\n  relativeurls: true\nauth:\n  htpasswd:\n    realm: here\n    path: ${dir}/htpasswd\n`;
  writeFileSync(`${dir}/registry.yml`, config);
  const registry = spawn("docker-registry", ["serve", `${dir}/registry.yml`], { stdio: "ignore" });
  while (!(await listens(port))) {
    if (registry.exitCode !== null) throw new Error(`docker-registry ended with ${registry.exitCode}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  return { host: `127.0.0.1:${port}`, registry };
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
