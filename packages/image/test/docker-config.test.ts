/** docker's config.json and credential helpers: found, stored and forgotten, by the client and by the node for its own pulls. */
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { parseReference } from "@berth/spec/oci";
import { DockerConfig, type RunHelper } from "../src/registry/docker-config.ts";
import { nodeCredentials } from "../src/registry/node-credentials.ts";
import { app, isError, registryFor } from "./support/fixtures.ts";
import { bosunRig, openImages, scratch, whyNoBosun } from "./support/store.ts";

const noHelper: RunHelper = (program) => Promise.reject(new Error(`spawn ${program} ENOENT`));
const auth = (text: string): string => Buffer.from(text).toString("base64");

function fileWith(t: TestContext, document: unknown): string {
  const path = join(scratch(t), "config.json");
  writeFileSync(path, typeof document === "string" ? document : JSON.stringify(document));
  return path;
}

test("the file's entries, by host or URL, in each of their forms", async (t) => {
  const path = fileWith(t, {
    auths: {
      "https://index.docker.io/v1/": { auth: auth("me:se:cret") },
      "r.example:5000": { username: "u", password: "p" },
      "https://id.example/v2/": { auth: auth(":"), identitytoken: "identity" },
      "token.example": { registrytoken: "bearer" },
      "empty.example": {},
    },
  });
  const config = await DockerConfig.read(path, noHelper);
  assert.deepEqual(await config.find("docker.io"), { auth: auth("me:se:cret") });
  assert.deepEqual(await config.find("registry-1.docker.io"), { auth: auth("me:se:cret") });
  assert.deepEqual(await config.find("r.example:5000"), { username: "u", password: "p" });
  assert.deepEqual(await config.find("id.example"), { identityToken: "identity" });
  assert.deepEqual(await config.find("token.example"), { registryToken: "bearer" });
  for (const host of ["r.example", "empty.example", "none.example"]) assert.equal(await config.find(host), undefined);
});

test("a file that is not there is empty; one that is wrong is told", async (t) => {
  const none = await DockerConfig.read(join(scratch(t), "none", "config.json"), noHelper);
  assert.equal(await none.find("docker.io"), undefined);
  for (const [text, message] of [
    ["{", /is no JSON/],
    ["[]", /is no JSON object/],
    [{ auths: { "a.example": { auth: "bm9jb2xvbg==" } } }, /auths\["a\.example"\]\.auth is not the base64 form/],
    [{ credsStore: "../evil" }, /"\.\.\/evil" is no name of a credential helper/],
  ] as const) {
    await assert.rejects(
      DockerConfig.read(fileWith(t, text), noHelper).then(async (config) => await config.find("a.example")),
      isError("InvalidConfiguration", message),
    );
  }
});

test("login and logout change one entry, and leave the rest of the file", async (t) => {
  const path = fileWith(t, {
    auths: { "a.example": { auth: auth("a:a") }, "https://index.docker.io/v1/": { auth: auth("old:old") } },
    HttpHeaders: { "User-Agent": "x" },
  });
  const config = await DockerConfig.read(path, noHelper);
  assert.equal(await config.save("docker.io", { username: "new", password: "p" }), path);
  const written = JSON.parse(readFileSync(path, "utf8")) as object;
  assert.deepEqual(written, {
    auths: { "a.example": { auth: auth("a:a") }, "https://index.docker.io/v1/": { auth: auth("new:p") } },
    HttpHeaders: { "User-Agent": "x" },
  });
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const again = await DockerConfig.read(path, noHelper);
  assert.equal(await again.forget("docker.io"), true);
  const last = await DockerConfig.read(path, noHelper);
  assert.equal(await last.forget("docker.io"), false);
  assert.deepEqual(await last.find("a.example"), { auth: auth("a:a") });
  const fresh = await DockerConfig.read(join(scratch(t), "new", "config.json"), noHelper);
  const made = await fresh.save("b.example", { identityToken: "t" });
  assert.equal(statSync(join(made, "..")).mode & 0o777, 0o700);
  assert.deepEqual(await (await DockerConfig.read(made, noHelper)).find("b.example"), { identityToken: "t" });
});

test("helpers: one for a registry, one for all, and what they say", async (t) => {
  const calls: string[] = [];
  let answer = { status: 0, stdout: JSON.stringify({ ServerURL: "x", Username: "u", Secret: "s" }), stderr: "" };
  const run: RunHelper = (program, verb, stdin) => {
    calls.push(`${program} ${verb} ${stdin}`);
    return Promise.resolve(answer);
  };
  const document = { credHelpers: { "gcr.example": "gcr" }, credsStore: "pass" };
  const config = await DockerConfig.read(fileWith(t, document), run);
  assert.deepEqual(await config.find("gcr.example"), { username: "u", password: "s" });
  answer = { ...answer, stdout: JSON.stringify({ ServerURL: "x", Username: "<token>", Secret: "identity" }) };
  assert.deepEqual(await config.find("docker.io"), { identityToken: "identity" });
  assert.equal(await config.save("r.example", { username: "u", password: "p" }), "docker-credential-pass");
  assert.equal(await config.forget("r.example"), true);
  assert.deepEqual(calls, [
    "docker-credential-gcr get gcr.example",
    "docker-credential-pass get https://index.docker.io/v1/",
    'docker-credential-pass store {"ServerURL":"r.example","Username":"u","Secret":"p"}',
    "docker-credential-pass get r.example",
    "docker-credential-pass erase r.example",
  ]);
  answer = { status: 1, stdout: "credentials not found in native keychain\n", stderr: "" };
  assert.equal(await config.find("r.example"), undefined);
  answer = { status: 1, stdout: "gpg: no key\n", stderr: "" };
  await assert.rejects(
    config.find("r.example"),
    isError("InvalidConfiguration", /^docker-credential-pass get failed: gpg: no key$/),
  );
  answer = { status: 0, stdout: "{}", stderr: "" };
  await assert.rejects(config.find("r.example"), isError("InvalidConfiguration", /no Username or no Secret/));
  const absent = await DockerConfig.read(fileWith(t, document), noHelper);
  await assert.rejects(
    absent.find("r.example"),
    isError("InvalidConfiguration", /get failed: spawn docker-cred.* ENOENT/),
  );
});

test("the node's own credentials, asked of a helper through bosun, go to a pull that brings none", async (t) => {
  const missing = whyNoBosun();
  if (missing !== undefined) return t.skip(missing);
  const [registry, directory] = [await registryFor(t), scratch(t)];
  const bin = join(directory, "bin");
  mkdirSync(bin);
  const helper = join(bin, "docker-credential-test");
  writeFileSync(
    helper,
    `#!/bin/sh\nread -r server\necho "$1 $server" >>${directory}/asked\necho '{"ServerURL":"x","Username":"node","Secret":"s"}'\n`,
  );
  chmodSync(helper, 0o755);
  const path = process.env["PATH"];
  process.env["PATH"] = `${bin}:${path}`;
  t.after(() => (process.env["PATH"] = path));
  const authFile = join(directory, "config.json");
  writeFileSync(authFile, JSON.stringify({ credsStore: "test" }));
  const seen: (string | undefined)[] = [];
  registry.hook = (request, response) => {
    seen.push(request.headers.authorization);
    if (request.headers.authorization === `Basic ${auth("node:s")}`) return false;
    response.writeHead(401, { "www-authenticate": 'Basic realm="r"' }).end();
    return true;
  };
  const rig = await bosunRig(t);
  const images = await openImages(t, rig, { authFile });
  const built = app("x");
  assert.equal((await images.pull(registry.push("a", "1", built))).id, built.id);
  assert.equal(readFileSync(`${directory}/asked`, "utf8"), `get ${registry.host}\n`);
  await assert.rejects(
    images.pull(`${registry.host}/a:1`, { auth: { username: "caller", password: "x" } }),
    isError("Unauthorized"),
  );
  assert.equal(readFileSync(`${directory}/asked`, "utf8"), `get ${registry.host}\n`, "a caller's own count alone");
  await images.remote.login(registry.host, { username: "node", password: "s" });
  await assert.rejects(
    images.remote.login(registry.host, { username: "node", password: "no" }),
    isError("Unauthorized", /does not take this login: check the user name and password/),
  );
  const mirrors = { "r.example": ["http://mirror.example"] };
  const found = await nodeCredentials(authFile, parseReference("r.example/a"), { mirrors }, rig.hand);
  assert.deepEqual(Object.keys(found ?? {}), ["mirror.example", "r.example"]);
  assert.ok(existsSync(helper));
  return undefined;
});
