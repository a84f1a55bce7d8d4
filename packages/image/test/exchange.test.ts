/** What a registry may do to a client between its question and the answer: codings, redirects, tokens that end, other schemes. */
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createSecureServer } from "node:https";
import type { AddressInfo, Server } from "node:net";
import test, { type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { type image, image as images, parseReference, withDefaultTag } from "@berth/spec/oci";
import { type RegistryOptions, RegistryClient } from "../src/registry/client.ts";
import { HttpClient } from "../src/registry/http.ts";
import { certificate } from "./support/certificate.ts";
import { isError, registryFor } from "./support/fixtures.ts";
import { build, digest } from "./support/registry.ts";
import { QUICK, scratch } from "./support/store.ts";
import { archive } from "./support/tar-writer.ts";

const built = build([archive({ name: "hello", data: "world" })]);
const LOGIN = { username: "user", password: "secret" };

function clientFor(t: TestContext, reference: string, options: Partial<RegistryOptions> = {}): RegistryClient {
  const http = new HttpClient();
  t.after(() => http.close());
  return new RegistryClient(http, { reference: withDefaultTag(parseReference(reference)), retry: QUICK, ...options });
}

async function listen(t: TestContext, server: Server & { closeAllConnections(): void }): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const blobOf = (bytes: Buffer, more: Partial<image.Descriptor> = {}): image.Descriptor => ({
  mediaType: "application/octet-stream",
  digest: digest(bytes),
  size: bytes.length,
  ...more,
});

test("a content coding that was not asked for is refused, and none is asked for", async (t) => {
  const registry = await registryFor(t);
  registry.push("a", "1", built);
  let asked: string | undefined;
  registry.hook = (request, response) => {
    asked = String(request.headers["accept-encoding"]);
    response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(built.manifest));
    return true;
  };
  await assert.rejects(
    clientFor(t, `${registry.host}/a:1`).manifest(),
    isError("RegistryError", /content coding "gzip", which was not asked for/),
  );
  assert.equal(asked, "identity");
});

test("headers of hosts.toml and logins stay with the host; what it redirects to cannot ask for a login", async (t) => {
  const registry = await registryFor(t);
  const seen: IncomingMessage["headers"][] = [];
  const elsewhere = createServer((request, response) => {
    seen.push(request.headers);
    response.writeHead(401, { "www-authenticate": 'Basic realm="give me"' }).end();
  });
  const host = await listen(t, elsewhere);
  const layer = built.layers[0] as Buffer;
  registry.hook = (request, response) => {
    if (request.headers.authorization === undefined)
      response.writeHead(401, { "www-authenticate": 'Basic realm="r"' }).end();
    else response.writeHead(307, { location: `http://${host}/stolen?signature=1` }).end();
    return true;
  };
  const registries = { headers: { "X-Api-Key": ["secret"] } };
  const client = clientFor(t, `${registry.host}/a:1`, { credentials: LOGIN, registries });
  await assert.rejects(collect(client.blob(blobOf(layer))), isError("Unauthorized", /stolen answered 401/));
  assert.equal(seen.length, 1);
  assert.deepEqual([seen[0]?.authorization, seen[0]?.["x-api-key"]], [undefined, undefined]);
});

interface Tokens {
  readonly realm: string;
  readonly asked: string[];
}

async function tokenServer(t: TestContext, methods: readonly string[], expires: number): Promise<Tokens> {
  const asked: string[] = [];
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    let body = "";
    request.setEncoding("utf8");
    request.on("data", (chunk: string) => (body += chunk));
    request.on("end", () => {
      asked.push(`${request.method} ${request.method === "POST" ? body : request.url}`);
      if (!methods.includes(request.method ?? "")) return response.writeHead(405).end();
      return response.end(JSON.stringify({ access_token: `t${asked.length}`, expires_in: expires }));
    });
  });
  return { realm: `http://${await listen(t, server)}/token`, asked };
}

test("a token that has ended is renewed before it is used again", async (t) => {
  const registry = await registryFor(t);
  registry.push("a", "1", built);
  const tokens = await tokenServer(t, ["GET"], 0.2);
  let refused = 0;
  registry.hook = (request, response) => {
    if (request.headers.authorization?.startsWith("Bearer t")) return false;
    refused++;
    response.writeHead(401, { "www-authenticate": `Bearer realm="${tokens.realm}",service="s"` }).end();
    return true;
  };
  const client = clientFor(t, `${registry.host}/a:1`);
  for (let i = 0; i < 3; i++) {
    await client.manifest();
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  assert.equal(refused, 1);
  assert.deepEqual(tokens.asked, Array(3).fill("GET /token?service=s&scope=repository%3Aa%3Apull"));
});

test("a token server of the OAuth2 form alone is asked by POST", async (t) => {
  const registry = await registryFor(t);
  registry.push("a", "1", built);
  const tokens = await tokenServer(t, ["POST"], 300);
  registry.hook = (request, response) => {
    if (request.headers.authorization !== undefined) return false;
    response
      .writeHead(401, { "www-authenticate": `Bearer realm="${tokens.realm}",service="s",scope="repository:a:pull"` })
      .end();
    return true;
  };
  await clientFor(t, `${registry.host}/a:1`, { credentials: LOGIN }).manifest();
  assert.deepEqual(
    tokens.asked.map((line) => line.slice(0, 5)),
    ["GET /", "POST "],
  );
  assert.deepEqual(Object.fromEntries(new URLSearchParams(tokens.asked[1]?.slice(5))), {
    service: "s",
    scope: "repository:a:pull",
    client_id: "berth",
    grant_type: "password",
    username: "user",
    password: "secret",
  });
  // What a credential helper says of an identity token.
  const credentials = { username: "<token>", password: "identity" };
  await clientFor(t, `${registry.host}/a:1`, { credentials }).manifest();
  assert.match(tokens.asked.at(-1) ?? "", /grant_type=refresh_token&refresh_token=identity/);
});

test("a login refused again and again is told once; a registry that says 401 in the middle is not asked for ever", async (t) => {
  const registry = await registryFor(t);
  registry.push("a", "1", built);
  registry.hook = (_, response) => {
    response.writeHead(401, { "www-authenticate": 'Basic realm="r"' }).end();
    return true;
  };
  const client = clientFor(t, `${registry.host}/a:1`, { credentials: LOGIN });
  await assert.rejects(client.manifest(), isError("Unauthorized", /the credentials given may not pull it/));
  assert.equal(registry.requests.length, 2);
});

test("a registry on loopback that speaks TLS is found out, with a certificate of its own making", async (t) => {
  const registry = await registryFor(t);
  registry.push("a", "1", built);
  const made = certificate(scratch(t), "server");
  if (made === undefined) return t.skip("openssl cannot make a certificate here");
  const server = createSecureServer(made, (request, response) =>
    registry.answer(request, response, new URL(request.url ?? "/", "https://x")),
  );
  const client = clientFor(t, `${await listen(t, server)}/a:1`);
  assert.equal((await client.manifest()).digest, built.manifestDigest);
  assert.equal(client.session.switched.length, 1, "and is not tried in plain again");
  return undefined;
});

test("a layer that registries need not have is fetched from its own URLs, without a login", async (t) => {
  const registry = await registryFor(t);
  const layer = built.layers[0] as Buffer;
  const seen: string[] = [];
  const elsewhere = createServer((request, response) => {
    seen.push(`${request.url} ${request.headers.authorization ?? "-"}`);
    if (request.url === "/gone") response.writeHead(404).end();
    else response.end(layer);
  });
  const host = await listen(t, elsewhere);
  const urls = ["ftp://x", `http://${host}/gone`, `http://${host}/layer`];
  const foreign = blobOf(layer, { mediaType: images.MEDIA.dockerForeignLayerGzip, urls });
  const options = { credentials: { registryToken: "secret" } };
  assert.deepEqual(await collect(clientFor(t, `${registry.host}/a:1`, options).blob(foreign)), layer);
  assert.deepEqual(seen, ["/gone -", "/layer -"]);
  await assert.rejects(
    collect(clientFor(t, `${registry.host}/a:1`).blob({ ...foreign, urls: urls.slice(0, 2) })),
    isError("NotFound", /nor where its descriptor says: "ftp:\/\/x" is no http\(s\) URL; not found/),
  );
  await assert.rejects(
    collect(clientFor(t, `${registry.host}/a:1`).blob(blobOf(layer, { urls }))),
    isError("NotFound", /404[^;]*$/),
    "other layers come from the registry only",
  );
});

test("a blob whose connection breaks at every turn is given up", async (t) => {
  const bytes = Buffer.alloc(1000, "x");
  const registry = await registryFor(t);
  registry.hook = (request, response) => {
    const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    response.writeHead(start === 0 ? 200 : 206, {
      "content-length": bytes.length - start,
      ...(start === 0 ? {} : { "content-range": `bytes ${start}-999/1000` }),
    });
    response.write(bytes.subarray(start, start + 1), () => response.destroy());
    return true;
  };
  await assert.rejects(
    collect(clientFor(t, `${registry.host}/a:1`).blob(blobOf(bytes))),
    isError("Unavailable", /broke off/),
  );
  assert.equal(registry.requests.length, 100);
});
