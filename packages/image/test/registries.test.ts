/** A real registry, Debian's docker-registry: TLS, logins of both kinds, proxies, and a network that does its worst. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { createHash, createPrivateKey, randomBytes, sign, X509Certificate } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, request as httpRequest } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import type { Images } from "../src/images.ts";
import type { Credentials } from "../src/types.ts";
import { certificate } from "./support/certificate.ts";
import { dockerRegistry, frontOf, listen, whyNot } from "./support/docker-registry.ts";
import { app, isError, registryFor } from "./support/fixtures.ts";
import { build, type BuiltImage, digest } from "./support/registry.ts";
import { bosunRig, openImages, scratch } from "./support/store.ts";
import { archive } from "./support/tar-writer.ts";

const LOGIN: Credentials = { username: "user", password: "secret" };

/** Puts `built` into a store, by way of a registry in this process, and names it `reference`. */
async function seeded(t: TestContext, built: BuiltImage, reference: string, images: Images): Promise<void> {
  const registry = await registryFor(t);
  await images.pull(registry.push("seed", "1", built));
  await images.tag(built.id, reference);
}

test("TLS with an authority of its own, a password, and only a proxy to reach it", async (t) => {
  const missing = whyNot("docker-registry", "htpasswd", "openssl");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  certificate(directory, "server", "DNS:registry.test");
  writeFileSync(join(directory, "htpasswd"), execFileSync("htpasswd", ["-Bbn", "user", "secret"]));
  const host = await dockerRegistry(
    t,
    directory,
    `auth:\n  htpasswd:\n    realm: here\n    path: ${directory}/htpasswd\n`,
    `  tls:\n    certificate: ${directory}/server.pem\n    key: ${directory}/server.key\n`,
  );
  const asked: string[] = [];
  const proxy = createServer((_, response) => void response.writeHead(403).end());
  proxy.on("connect", (request, socket) => {
    asked.push(request.url ?? "");
    const onward = connect(Number(host.split(":")[1]), "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      onward.pipe(socket).pipe(onward);
    });
    onward.on("error", () => socket.destroy());
    socket.on("error", () => onward.destroy());
  });
  const proxyHost = await listen(t, proxy);
  const hosts = join(directory, "certs.d", "registry.test:5000");
  mkdirSync(hosts, { recursive: true });
  const registries = (toml: string): { hostsDirs: string[]; proxy: { https: string } } => {
    writeFileSync(join(hosts, "hosts.toml"), toml);
    return { hostsDirs: [join(directory, "certs.d")], proxy: { https: `http://${proxyHost}` } };
  };
  const trusting = registries(`server = "https://registry.test:5000"\nca = "${directory}/server.pem"\n`);
  const images = await openImages(t, await bosunRig(t), { registries: trusting });
  const built = app("tls");
  const reference = "registry.test:5000/team/app:1";
  await seeded(t, built, reference, images);
  await assert.rejects(
    images.remote.push(reference),
    isError("Unauthorized", /push access denied .* may need a login/),
  );
  await assert.rejects(
    images.remote.login("registry.test:5000", { ...LOGIN, password: "wrong" }),
    isError("Unauthorized", /does not take this login/),
  );
  await images.remote.login("registry.test:5000", LOGIN);
  assert.equal(await images.remote.push(reference, { auth: LOGIN }), built.manifestDigest);
  assert.deepEqual(await images.remote.tags("registry.test:5000/team/app", { auth: LOGIN }), ["1"]);
  await images.remove(built.id);
  await assert.rejects(images.pull(reference), isError("Unauthorized", /pull access denied/));
  assert.equal((await images.pull(reference, { auth: LOGIN })).id, built.id);
  assert.deepEqual([...new Set(asked)], ["registry.test:5000"]);
  const other = await openImages(t, await bosunRig(t), {
    registries: { ...registries('server = "https://registry.test:5000"'), proxy: { https: `http://${proxyHost}` } },
  });
  await assert.rejects(other.pull(reference, { auth: LOGIN }), isError("Unavailable", /certificate is not trusted/));
  const around = await openImages(t, await bosunRig(t), {
    registries: { ...trusting, proxy: { https: `http://${proxyHost}`, no: ".test" } },
  });
  await assert.rejects(around.pull(reference, { auth: LOGIN }), isError("Unavailable", /no such host/));
  return undefined;
});

test("HTTP_PROXY of the environment, as a unit of berthd sets it", async (t) => {
  const missing = whyNot("docker-registry");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  const host = await dockerRegistry(t, directory);
  const asked = new Set<string>();
  const proxy = await frontOf(t, host, (request) => {
    const url = new URL(request.url ?? "", "http://none");
    asked.add(url.host);
    request.url = url.pathname + url.search;
    return false;
  });
  const hosts = join(directory, "certs.d", "registry.test:5000");
  mkdirSync(hosts, { recursive: true });
  writeFileSync(join(hosts, "hosts.toml"), 'server = "http://registry.test:5000"');
  const before = process.env["HTTP_PROXY"];
  process.env["HTTP_PROXY"] = `http://${proxy}/`;
  t.after(() => {
    if (before === undefined) delete process.env["HTTP_PROXY"];
    else process.env["HTTP_PROXY"] = before;
  });
  const images = await openImages(t, await bosunRig(t), { registries: { hostsDirs: [join(directory, "certs.d")] } });
  const built = app("environment");
  const reference = "registry.test:5000/a:1";
  await seeded(t, built, reference, images);
  await images.remote.push(reference);
  await images.remove(built.id);
  assert.equal((await images.pull(reference)).id, built.id);
  assert.deepEqual([...asked], ["registry.test:5000"], "and what is on loopback is asked directly");
  return undefined;
});

interface TokenServer {
  readonly realm: string;
  /** Scopes asked for, with the user. */
  readonly asked: string[];
  readonly config: string;
}

/** A token server as docker-registry trusts one: signed claims of what may be done. "user" may do all in "team/". */
async function tokenServer(t: TestContext, directory: string, seconds: number): Promise<TokenServer> {
  const made = certificate(directory, "token") as { cert: Buffer; key: Buffer };
  const key = createPrivateKey(made.key);
  const header = { typ: "JWT", alg: "ES256", x5c: [new X509Certificate(made.cert).raw.toString("base64")] };
  const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://x");
    const [user = "", password] = Buffer.from((request.headers.authorization ?? "").slice(6), "base64")
      .toString()
      .split(":");
    if (user !== "" && password !== "secret") return void response.writeHead(401).end();
    const scopes = url.searchParams.getAll("scope");
    asked.push(`${user || "-"} ${scopes.join(" ")}`);
    const now = Math.floor(Date.now() / 1000);
    const access = scopes.map((scope) => {
      const [type = "", name = "", actions = ""] = scope.split(":");
      return { type, name, actions: user !== "" && name.startsWith("team/") ? actions.split(",") : [] };
    });
    const claims = {
      iss: "berth-test",
      sub: user,
      aud: "registry.test",
      exp: now + seconds,
      nbf: now - 5,
      iat: now,
      jti: "1",
      access,
    };
    const signed = `${encode(header)}.${encode(claims)}`;
    const signature = sign("sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" }).toString("base64url");
    return void response.end(JSON.stringify({ token: `${signed}.${signature}`, expires_in: seconds }));
  });
  const realm = `http://${await listen(t, server)}/token`;
  const config = `auth:\n  token:\n    realm: ${realm}\n    service: registry.test\n    issuer: berth-test\n    rootcertbundle: ${directory}/token.pem\n`;
  return { realm, asked, config };
}

test("a token server: one token for each scope, mounts between repositories, and refusals", async (t) => {
  const missing = whyNot("docker-registry", "openssl");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  const tokens = await tokenServer(t, directory, 300);
  const host = await dockerRegistry(t, directory, tokens.config);
  const images = await openImages(t, await bosunRig(t));
  const built = app("token");
  await seeded(t, built, `${host}/team/one:1`, images);
  await assert.rejects(images.remote.push(`${host}/team/one:1`), isError("Unauthorized"));
  await assert.rejects(
    images.remote.push(`${host}/team/one:1`, { auth: { username: "user", password: "no" } }),
    isError("Unauthorized", /token server .* answered 401: check the user name and password/),
  );
  tokens.asked.length = 0;
  assert.equal(await images.remote.push(`${host}/team/one:1`, { auth: LOGIN }), built.manifestDigest);
  assert.deepEqual([...new Set(tokens.asked)], ["user repository:team/one:pull,push"]);
  tokens.asked.length = 0;
  await images.tag(built.id, `${host}/team/two:1`);
  const how = new Map<string, string>();
  await images.remote.push(`${host}/team/two:1`, { auth: LOGIN, progress: ({ id, status }) => how.set(id, status) });
  assert.equal([...how.values()].filter((status) => status === "mounted").length, 3, "two layers and the config");
  assert.ok(tokens.asked.includes("user repository:team/two:pull,push repository:team/one:pull"));
  await images.tag(built.id, `${host}/other/app:1`);
  await assert.rejects(
    images.remote.push(`${host}/other/app:1`, { auth: LOGIN }),
    isError("Unauthorized", /push access/),
  );
  await images.remove(built.id);
  await assert.rejects(images.pull(`${host}/team/two:1`), isError("Unauthorized", /may need a login/));
  tokens.asked.length = 0;
  assert.equal((await images.pull(`${host}/team/two:1`, { auth: LOGIN })).id, built.id);
  assert.deepEqual(tokens.asked, ["user repository:team/two:pull"], "one token for manifest, config and layers");
  return undefined;
});

test("tokens that end in the middle of a pull", async (t) => {
  const missing = whyNot("docker-registry", "openssl");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  const tokens = await tokenServer(t, directory, 300);
  const host = await dockerRegistry(t, directory, tokens.config);
  const images = await openImages(t, await bosunRig(t));
  const built = app("ends");
  await seeded(t, built, `${host}/team/app:1`, images);
  await images.remote.push(`${host}/team/app:1`, { auth: LOGIN });
  await images.remove(built.id);
  // As if the registry forgot each token after its first use.
  const used = new Set<string>();
  const front = await frontOf(t, host, (request) => {
    const { authorization = "" } = request.headers;
    if (used.has(authorization)) request.headers.authorization = "Bearer gone";
    used.add(authorization);
    return false;
  });
  assert.equal((await images.pull(`${front}/team/app:1`, { auth: LOGIN })).id, built.id);
  assert.ok(used.size > 4);
  return undefined;
});

test("a network that cuts, stalls and refuses: what arrives is whole, up and down", async (t) => {
  const missing = whyNot("docker-registry", "skopeo");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  const host = await dockerRegistry(t, directory);
  const images = await openImages(t, await bosunRig(t), {
    retry: { attempts: 6, firstDelayMs: 1, maxDelayMs: 5, maxRetryAfterMs: 1000 },
  });
  const built = build([archive({ name: "random", data: randomBytes(6 << 20) }), archive({ name: "small", data: "x" })]);
  const trouble = { busy: 0, cutUploads: 0, cutDownloads: 0, ranges: 0 };
  const front = await frontOf(t, host, (request, response) => {
    const { method = "", url = "", headers } = request;
    if (url.includes("/manifests/") && trouble.busy++ === 0) {
      response.writeHead(429, { "retry-after": "0" }).end();
      return true;
    }
    if (
      method === "PUT" &&
      url.includes("/uploads/") &&
      Number(headers["content-length"]) > 1 << 20 &&
      trouble.cutUploads < 1
    ) {
      trouble.cutUploads++;
      let sent = 0;
      request.on("data", (chunk: Buffer) => {
        sent += chunk.length;
        if (sent > 2 << 20) request.socket.destroy();
      });
      return true;
    }
    if (method === "GET" && url.includes("/blobs/sha256")) {
      if (headers.range !== undefined) trouble.ranges++;
      return cut(host, request, response, trouble);
    }
    return false;
  });
  await seeded(t, built, `${front}/a:1`, images);
  assert.equal(await images.remote.push(`${front}/a:1`), built.manifestDigest);
  assert.equal(trouble.cutUploads, 1);
  const inspected = spawnSync("skopeo", [
    "inspect",
    "--tls-verify=false",
    "--format",
    "{{.Digest}}",
    `docker://${host}/a:1`,
  ]);
  assert.equal(inspected.stdout.toString().trim(), built.manifestDigest, inspected.stderr.toString());
  await images.remove(built.id);
  trouble.busy = 0;
  assert.equal((await images.pull(`${front}/a:1`)).id, built.id);
  assert.ok(trouble.busy > 1);
  assert.ok(trouble.cutDownloads >= 3 && trouble.ranges >= trouble.cutDownloads);
  return undefined;
});

/** Lets one megabyte of an answer through and cuts it, at most three times. */
function cut(
  host: string,
  request: import("node:http").IncomingMessage,
  response: import("node:http").ServerResponse,
  trouble: { cutDownloads: number },
): boolean {
  const [address, port] = host.split(":");
  httpRequest({ host: address, port, path: request.url, headers: request.headers }, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    let passed = 0;
    answer.on("data", (chunk: Buffer) => {
      passed += chunk.length;
      if (passed < 1 << 20 || trouble.cutDownloads >= 3) return void response.write(chunk);
      if (response.destroyed) return undefined;
      trouble.cutDownloads++;
      answer.destroy();
      return void response.write(chunk, () => response.destroy());
    });
    answer.on("end", () => response.end());
  }).end();
  return true;
}

test("a registry that is slow, but goes on", async (t) => {
  const missing = whyNot("docker-registry");
  if (missing !== undefined) return t.skip(missing);
  const host = await dockerRegistry(t, scratch(t));
  const images = await openImages(t, await bosunRig(t));
  const built = build([archive({ name: "f", data: randomBytes(400_000) })]);
  const front = await frontOf(t, host, (request, response) => {
    if (request.method !== "GET" || request.url?.includes("/blobs/sha256") !== true) return false;
    const [address, port] = host.split(":");
    httpRequest({ host: address, port, path: request.url, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.on("data", (chunk: Buffer) => {
        response.write(chunk);
        answer.pause();
        setTimeout(() => answer.resume(), 40);
      });
      answer.on("end", () => response.end());
    }).end();
    return true;
  });
  await seeded(t, built, `${front}/a:1`, images);
  await images.remote.push(`${front}/a:1`);
  await images.remove(built.id);
  const seen: number[] = [];
  const layer = digest(built.layers[0] as Buffer);
  const pulled = await images.pull(`${front}/a:1`, {
    progress: ({ id, doneBytes }) => {
      if (id === layer) seen.push(doneBytes);
    },
  });
  assert.equal(pulled.id, built.id);
  assert.ok(new Set(seen).size > 3, `progress in steps: ${seen.join(", ")}`);
  return undefined;
});

test("what a registry's disk has lost or changed is refused, and nothing of it stays", async (t) => {
  const missing = whyNot("docker-registry");
  if (missing !== undefined) return t.skip(missing);
  const directory = scratch(t);
  const host = await dockerRegistry(t, directory);
  const images = await openImages(t, await bosunRig(t));
  const built = build([archive({ name: "f", data: randomBytes(300_000) })]);
  await seeded(t, built, `${host}/a:1`, images);
  await images.remote.push(`${host}/a:1`);
  await images.remove(built.id);
  const layer = built.layers[0] as Buffer;
  const hex = createHash("sha256").update(layer).digest("hex");
  const file = join(directory, "registry/docker/registry/v2/blobs/sha256", hex.slice(0, 2), hex, "data");
  const changed = Buffer.from(layer);
  changed[200_000] = (changed[200_000] as number) ^ 1;
  for (const [bytes, message] of [
    [changed, /the content received has digest|corrupt gzip data/],
    [layer.subarray(0, 100_000), /has 100000 bytes of it, shorter than/],
    [Buffer.concat([layer, layer]), /longer than the/],
  ] as const) {
    writeFileSync(file, bytes);
    await assert.rejects(images.pull(`${host}/a:1`), isError("DigestMismatch", message));
    assert.deepEqual(images.list(), []);
  }
  writeFileSync(file, layer);
  assert.equal((await images.pull(`${host}/a:1`)).id, built.id);
  return undefined;
});
