/** The registry client against a registry in this process that asks for logins, breaks off, lies, redirects and stalls. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { type image, parseReference, withDefaultTag } from "@berth/spec";
import { ImageError, type ImageErrorCode } from "../src/errors.ts";
import { type RegistryOptions, RegistryClient } from "../src/registry/client.ts";
import { HttpClient } from "../src/registry/http.ts";
import { build, digest, FakeRegistry, type Hook } from "./support/registry.ts";
import { archive } from "./support/tar-writer.ts";

const QUICK = { attempts: 4, firstDelayMs: 1, maxDelayMs: 5, maxRetryAfterMs: 2000 };
/** Waits as long as a registry asks for. */
const PATIENT = { ...QUICK, maxRetryAfterMs: 3_600_000 };
const built = build([archive({ name: "hello", data: "world" })]);

async function registryFor(t: TestContext, hook?: Hook): Promise<FakeRegistry> {
  const registry = await FakeRegistry.start();
  t.after(() => registry.close());
  registry.push("a/b", "v1", built);
  registry.hook = hook;
  return registry;
}

function clientFor(t: TestContext, reference: string, options: Partial<RegistryOptions> = {}): RegistryClient {
  const http = new HttpClient();
  t.after(() => http.close());
  return new RegistryClient(http, { reference: withDefaultTag(parseReference(reference)), retry: QUICK, ...options });
}

function isError(code: ImageErrorCode, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof ImageError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };
}

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function blobOf(bytes: Buffer, size = bytes.length): image.Descriptor {
  return { mediaType: "application/octet-stream", digest: digest(bytes), size };
}

test("anonymous: manifest by tag and digest, config, blob", async (t) => {
  const registry = await registryFor(t);
  const client = clientFor(t, `${registry.host}/a/b:v1`);
  const manifest = await client.manifest();
  assert.equal(manifest.digest, built.manifestDigest);
  assert.deepEqual(Buffer.from(manifest.bytes), built.manifest);
  assert.equal(await client.head(), built.manifestDigest);
  assert.deepEqual(Buffer.from(await client.small(blobOf(built.config))), built.config);
  assert.deepEqual(await collect(client.blob(blobOf(built.layers[0] as Buffer))), built.layers[0]);
  const byDigest = await clientFor(t, `${registry.host}/a/b@${built.manifestDigest}`).manifest();
  assert.equal(byDigest.digest, built.manifestDigest);
});

test("what is not there is NotFound, with the URL and the status", async (t) => {
  const registry = await registryFor(t);
  await assert.rejects(
    clientFor(t, `${registry.host}/a/b:v2`).manifest(),
    isError(
      "NotFound",
      new RegExp(
        `not found: ${registry.host}/a/b:v2 \\(http://.*/v2/a/b/manifests/v2 answered 404: manifest unknown\\)`,
      ),
    ),
  );
  await assert.rejects(
    collect(clientFor(t, `${registry.host}/a/b:v1`).blob(blobOf(Buffer.from("absent")))),
    isError("NotFound", /blob/),
  );
});

test("nobody there is Unavailable, and says what to look at", async (t) => {
  const registry = await FakeRegistry.start();
  const { host } = registry;
  await registry.close();
  await assert.rejects(
    clientFor(t, `${host}/a/b`).manifest(),
    isError("Unavailable", /connection refused \(is the registry running\?\)/),
  );
});

const BASIC = `Basic ${Buffer.from("user:secret").toString("base64")}`;

test("basic authentication, with username and password and with auth", async (t) => {
  const registry = await registryFor(t, (request, response) => {
    if (request.headers.authorization === BASIC) return false;
    response.writeHead(401, { "www-authenticate": 'Basic realm="here"' }).end();
    return true;
  });
  const reference = `${registry.host}/a/b:v1`;
  for (const credentials of [
    { username: "user", password: "secret" },
    { auth: Buffer.from("user:secret").toString("base64") },
    { username: "user", password: "secret", serverAddress: registry.host },
  ]) {
    assert.equal((await clientFor(t, reference, { credentials }).manifest()).digest, built.manifestDigest);
  }
  await assert.rejects(
    clientFor(t, reference).manifest(),
    isError("Unauthorized", /pull access denied or no such repository: .*a\/b .*answered 401.*may need a login/),
  );
  await assert.rejects(
    clientFor(t, reference, { credentials: { username: "user", password: "wrong" } }).manifest(),
    isError("Unauthorized", /may not pull/),
  );
  await assert.rejects(
    clientFor(t, reference, {
      credentials: { username: "user", password: "secret", serverAddress: "other.example" },
    }).manifest(),
    isError("Unauthorized", /pull access denied/),
  );
});

interface TokenServer {
  readonly url: string;
  readonly asked: { method: string; url: string; authorization: string | undefined; body: string }[];
}

/** Gives out "token-1", "token-2" …; `accepts` decides about the request. */
async function tokenServer(
  t: TestContext,
  accepts: (authorization: string | undefined, form: URLSearchParams) => boolean,
  expires = 300,
): Promise<TokenServer> {
  const asked: TokenServer["asked"] = [];
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    let body = "";
    request.setEncoding("utf8");
    request.on("data", (chunk: string) => (body += chunk));
    request.on("end", () => {
      asked.push({
        method: request.method ?? "",
        url: request.url ?? "",
        authorization: request.headers.authorization,
        body,
      });
      if (!accepts(request.headers.authorization, new URLSearchParams(body)))
        return response.writeHead(401).end('{"details":"incorrect username or password"}');
      return response
        .writeHead(200, { "content-type": "application/json" })
        .end(JSON.stringify({ token: `token-${asked.length}`, expires_in: expires }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`, asked };
}

function bearer(realm: string, accepted: (token: string) => boolean): Hook {
  return (request, response) => {
    if (accepted((request.headers.authorization ?? "").replace("Bearer ", ""))) return false;
    response
      .writeHead(401, {
        "www-authenticate": `Bearer realm="${realm}",service="reg.example",scope="repository:a/b:pull"`,
      })
      .end();
    return true;
  };
}

test("bearer: an anonymous token, asked for once and used for all", async (t) => {
  const tokens = await tokenServer(t, () => true);
  const registry = await registryFor(
    t,
    bearer(tokens.url, (token) => token === "token-1"),
  );
  const client = clientFor(t, `${registry.host}/a/b:v1`);
  await client.manifest();
  await collect(client.blob(blobOf(built.layers[0] as Buffer)));
  assert.equal(tokens.asked.length, 1);
  assert.equal(tokens.asked[0]?.url, "/token?service=reg.example&scope=repository%3Aa%2Fb%3Apull");
  assert.equal(tokens.asked[0]?.authorization, undefined);
  const second = clientFor(t, `${registry.host}/a/b:v1`, { session: client.session });
  await second.manifest();
  assert.equal(tokens.asked.length, 1, "a session takes its tokens along");
});

test("bearer: a user's token, and a refusal by the token server", async (t) => {
  const tokens = await tokenServer(t, (authorization) => authorization === BASIC);
  const registry = await registryFor(
    t,
    bearer(tokens.url, (token) => token.startsWith("token-")),
  );
  const reference = `${registry.host}/a/b:v1`;
  await clientFor(t, reference, { credentials: { username: "user", password: "secret" } }).manifest();
  await assert.rejects(
    clientFor(t, reference, { credentials: { username: "user", password: "no" } }).manifest(),
    isError(
      "Unauthorized",
      /token server http:.* answered 401: check the user name and password: incorrect username or password/,
    ),
  );
});

test("bearer: an identity token is exchanged by OAuth2, a registry token is sent as it is", async (t) => {
  const tokens = await tokenServer(
    t,
    (_, form) =>
      form.get("grant_type") === "refresh_token" &&
      form.get("refresh_token") === "identity" &&
      form.get("service") === "reg.example" &&
      form.get("scope") === "repository:a/b:pull",
  );
  const registry = await registryFor(
    t,
    bearer(tokens.url, (token) => token.startsWith("token-") || token === "mine"),
  );
  const reference = `${registry.host}/a/b:v1`;
  await clientFor(t, reference, { credentials: { identityToken: "identity" } }).manifest();
  assert.equal(tokens.asked[0]?.method, "POST");
  await clientFor(t, reference, { credentials: { registryToken: "mine" } }).manifest();
  assert.equal(tokens.asked.length, 1);
});

test("bearer: a token that ends in the middle is renewed", async (t) => {
  let good = "token-1";
  const tokens = await tokenServer(t, () => true);
  const registry = await registryFor(
    t,
    bearer(tokens.url, (token) => token === good),
  );
  const client = clientFor(t, `${registry.host}/a/b:v1`);
  await client.manifest();
  good = "token-2";
  await collect(client.blob(blobOf(built.layers[0] as Buffer)));
  assert.equal(tokens.asked.length, 2);
});

test("bearer: a realm that is no URL is told", async (t) => {
  const registry = await registryFor(
    t,
    bearer("ftp://x", () => false),
  );
  await assert.rejects(
    clientFor(t, `${registry.host}/a/b:v1`).manifest(),
    isError("RegistryError", /asks for a bearer token from "ftp:\/\/x"/),
  );
});

test("a manifest with other content than its digest is refused", async (t) => {
  const registry = await registryFor(t);
  registry.manifests.set(`a/b/${built.manifestDigest}`, {
    bytes: Buffer.from("{}"),
    type: "application/vnd.oci.image.manifest.v1+json",
  });
  await assert.rejects(
    clientFor(t, `${registry.host}/a/b@${built.manifestDigest}`).manifest(),
    isError("DigestMismatch", new RegExp(`instead of ${built.manifestDigest}`)),
  );
  registry.hook = (_, response, url) => {
    if (!url.pathname.endsWith("/v1")) return false;
    response.writeHead(200, { "docker-content-digest": digest(Buffer.from("other")) }).end("{}");
    return true;
  };
  await assert.rejects(clientFor(t, `${registry.host}/a/b:v1`).manifest(), isError("DigestMismatch", /instead of/));
});

test("a manifest past the limit, or that is no JSON, is refused", async (t) => {
  const registry = await registryFor(t);
  registry.document("a/b", "huge", Buffer.alloc((4 << 20) + 1, " "), "application/vnd.oci.image.manifest.v1+json");
  registry.document("a/b", "html", Buffer.from("<html>"), "text/html");
  await assert.rejects(
    clientFor(t, `${registry.host}/a/b:huge`).manifest(),
    isError("LimitExceeded", /larger than 4194304 bytes/),
  );
  await assert.rejects(clientFor(t, `${registry.host}/a/b:html`).manifest(), isError("InvalidImage", /no JSON/));
});

test("a blob of another content, shorter or longer, is refused", async (t) => {
  const registry = await registryFor(t);
  const client = clientFor(t, `${registry.host}/a/b:v1`);
  const wanted = Buffer.from("wanted");
  registry.blobs.set(digest(wanted), Buffer.from("wrong!"));
  await assert.rejects(client.small(blobOf(wanted)), isError("DigestMismatch", /other content/));
  registry.blobs.set(digest(wanted), Buffer.from("want"));
  await assert.rejects(
    client.small(blobOf(wanted)),
    isError("DigestMismatch", /has 4 bytes of it, shorter than the 6 bytes/),
  );
  registry.blobs.set(digest(wanted), Buffer.from("wanted and more"));
  await assert.rejects(client.small(blobOf(wanted)), isError("DigestMismatch", /longer than the 6 bytes/));
  registry.hook = (request, response) => {
    if (request.headers.range !== undefined) response.writeHead(416).end();
    else response.write("want", () => response.end());
    return true;
  };
  await assert.rejects(client.small(blobOf(wanted)), isError("DigestMismatch", /has no more than 4 of its 6 bytes/));
  registry.hook = (_, response) => {
    response.write("wanted and ", () => response.end("more"));
    return true;
  };
  await assert.rejects(client.small(blobOf(wanted)), isError("DigestMismatch", /longer than the 6 bytes/));
});

test("a blob that breaks off is taken up where it broke", async (t) => {
  const bytes = Buffer.alloc(3_000_000, "0123456789");
  let cuts = 0;
  const registry = await registryFor(t, (request, response, url) => {
    if (!url.pathname.includes("/blobs/") || cuts >= 6) return false;
    cuts++;
    const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    response.writeHead(start === 0 ? 200 : 206, {
      "content-length": bytes.length - start,
      ...(start === 0 ? {} : { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` }),
    });
    response.write(bytes.subarray(start, start + 300_000), () => response.destroy());
    return true;
  });
  registry.blobs.set(digest(bytes), bytes);
  const received = await collect(clientFor(t, `${registry.host}/a/b:v1`).blob(blobOf(bytes)));
  assert.ok(received.equals(bytes));
  assert.equal(cuts, 6, "progress starts the count of attempts again");
});

test("a server without ranges sends the blob from its start, and what is known is passed over", async (t) => {
  const bytes = Buffer.alloc(1_000_000, "abcdefg");
  let requests = 0;
  const registry = await registryFor(t, (_, response, url) => {
    if (!url.pathname.includes("/blobs/")) return false;
    response.writeHead(200, { "content-length": bytes.length });
    if (++requests === 1) response.write(bytes.subarray(0, 400_000), () => response.destroy());
    else response.end(bytes);
    return true;
  });
  assert.ok((await collect(clientFor(t, `${registry.host}/a/b:v1`).blob(blobOf(bytes)))).equals(bytes));
});

test("429 is waited out as Retry-After says, then told", async (t) => {
  let refusals = 2;
  const registry = await registryFor(t, (_, response) => {
    if (refusals-- <= 0) return false;
    response.writeHead(429, { "retry-after": "0" }).end();
    return true;
  });
  const client = clientFor(t, `${registry.host}/a/b:v1`);
  await client.manifest();
  assert.equal(registry.requests.length, 3);
  refusals = 1000;
  await assert.rejects(client.manifest(), isError("RateLimited", /answered 429 \(too many requests\)/));
  assert.equal(registry.requests.length, 3 + QUICK.attempts);
});

test("a Retry-After that is too long fails at once", async (t) => {
  const registry = await registryFor(t, (_, response) => {
    response.writeHead(429, { "retry-after": "3600" }).end();
    return true;
  });
  await assert.rejects(clientFor(t, `${registry.host}/a/b:v1`).manifest(), isError("RateLimited", /429/));
  assert.equal(registry.requests.length, 1);
});

test("a registry in trouble is tried again; other statuses are final", async (t) => {
  let failures = 2;
  let status = 503;
  const registry = await registryFor(t, (_, response) => {
    if (failures-- <= 0) return false;
    response.writeHead(status).end("oops");
    return true;
  });
  const client = clientFor(t, `${registry.host}/a/b:v1`);
  await client.manifest();
  failures = 1000;
  status = 418;
  await assert.rejects(client.manifest(), isError("RegistryError", /answered 418/));
  assert.equal(registry.requests.length, 4);
});

test("redirects are followed without credentials to another host", async (t) => {
  const seen: (string | undefined)[] = [];
  const storage = createServer((request, response) => {
    seen.push(request.headers.authorization);
    response.end(built.layers[0]);
  });
  await new Promise<void>((resolve) => storage.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    storage.closeAllConnections();
    storage.close();
  });
  const registry = await registryFor(t, (request, response, url) => {
    if (request.headers.authorization !== BASIC) response.writeHead(401, { "www-authenticate": "Basic realm=x" }).end();
    else if (url.pathname.includes("/blobs/"))
      response
        .writeHead(307, { location: `http://127.0.0.1:${(storage.address() as AddressInfo).port}/data?sig=secret` })
        .end();
    else return false;
    return true;
  });
  const client = clientFor(t, `${registry.host}/a/b:v1`, { credentials: { username: "user", password: "secret" } });
  assert.deepEqual(await collect(client.blob(blobOf(built.layers[0] as Buffer))), built.layers[0]);
  assert.deepEqual(seen, [undefined]);
});

test("endless redirects and ones to no HTTP are refused", async (t) => {
  let location = "";
  const registry = await registryFor(t, (_, response) => {
    response.writeHead(302, { location }).end();
    return true;
  });
  const client = clientFor(t, `${registry.host}/a/b:v1`);
  location = `http://${registry.host}/v2/again`;
  await assert.rejects(client.manifest(), isError("RegistryError", /more than 10 redirects/));
  location = "file:///etc/passwd";
  await assert.rejects(client.manifest(), isError("RegistryError", /not HTTP/));
  location = "http://[";
  await assert.rejects(client.manifest(), isError("RegistryError", /no URL/));
});

test("mirrors: the first that has it answers; headers and ns are sent; a mirror that fails is passed over", async (t) => {
  const upstream = await registryFor(t);
  const mirror = await registryFor(t);
  const asked: string[] = [];
  mirror.hook = (request, _, url) => {
    asked.push(`${url.searchParams.get("ns")} ${String(request.headers["x-berth"])}`);
    return false;
  };
  const directory = mkdtempSync(join(tmpdir(), "berth-hosts-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  mkdirSync(join(directory, "registry.example"));
  writeFileSync(
    join(directory, "registry.example", "hosts.toml"),
    `server = "http://${upstream.host}"\n[host."http://127.0.0.1:1"]\n[host."http://${mirror.host}"]\n[host."http://${mirror.host}".header]\nx-berth = "yes"\n`,
  );
  const options = { registries: { hostsDirs: [directory] } };
  assert.equal((await clientFor(t, "registry.example/a/b:v1", options).manifest()).digest, built.manifestDigest);
  assert.deepEqual([asked, upstream.requests], [["registry.example yes"], []]);
  mirror.manifests.clear();
  assert.equal((await clientFor(t, "registry.example/a/b:v1", options).manifest()).digest, built.manifestDigest);
  assert.equal(upstream.requests.length, 1);
  upstream.manifests.clear();
  await assert.rejects(
    clientFor(t, "registry.example/a/b:v1", options).manifest(),
    isError("NotFound", /not found.*also tried: .*connection refused/),
  );
});

test("an abort ends a request, a stalled body and a wait at once", async (t) => {
  let mode: "headers" | "body" | "retry" = "headers";
  const registry = await registryFor(t, (_, response) => {
    if (mode === "body") response.writeHead(200, { "content-length": 1000 }).write("some");
    else if (mode === "retry") response.writeHead(503, { "retry-after": "3600" }).end();
    return true;
  });
  for (mode of ["headers", "body", "retry"] as const) {
    const abort = new AbortController();
    const before = registry.requests.length;
    const client = clientFor(t, `${registry.host}/a/b:v1`, { signal: abort.signal, retry: PATIENT });
    const result = assert.rejects(
      collect(client.blob({ ...blobOf(Buffer.from("x")), size: 1000 })),
      isError("Canceled", /./),
      mode,
    );
    while (registry.requests.length === before) await new Promise((resolve) => setImmediate(resolve));
    // What was answered has arrived, or soon does; without the abort each of them goes on for an hour or for ever.
    await new Promise((resolve) => setTimeout(resolve, 30));
    abort.abort();
    await result;
  }
});
