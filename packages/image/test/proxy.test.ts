/** Proxies: which URLs go through one, and that they do, with a proxy in this process that maps every name to one registry. */
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, request as httpRequest, type ServerResponse } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { mkdirSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer as createTcpServer, type Server } from "node:net";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { parseReference, withDefaultTag } from "@berth/spec/oci";
import { RegistryClient } from "../src/registry/client.ts";
import { HttpClient } from "../src/registry/http.ts";
import { proxyFor, proxyFromEnvironment, type ProxySettings } from "../src/registry/proxy.ts";
import { isError } from "./support/fixtures.ts";
import { build, FakeRegistry } from "./support/registry.ts";
import { certificate } from "./support/certificate.ts";
import { QUICK, scratch } from "./support/store.ts";
import { archive } from "./support/tar-writer.ts";

const built = build([archive({ name: "f", data: "x" })]);

test("the environment's variables, in either case", () => {
  assert.deepEqual(proxyFromEnvironment({ HTTP_PROXY: "a", http_proxy: "b", https_proxy: "c", no_proxy: "d" }), {
    http: "a",
    https: "c",
    no: "d",
  });
});

test("a proxy by scheme; none for this machine itself", () => {
  const settings = { http: "http://plain:3128", https: "squid:3128" };
  const through = (url: string): string | undefined => proxyFor(new URL(url), settings)?.href;
  assert.equal(through("http://r.example/"), "http://plain:3128/");
  assert.equal(through("https://r.example/"), "http://squid:3128/");
  for (const own of ["http://localhost:5000", "https://127.0.0.9", "http://[::1]:5000"])
    assert.equal(through(own), undefined);
  assert.equal(proxyFor(new URL("https://r.example/"), { http: "http://plain:3128" }), undefined);
  assert.throws(
    () => proxyFor(new URL("https://r.example/"), { https: "socks4://u:secret@s:1080" }),
    isError("InvalidConfiguration", /HTTPS_PROXY: a proxy of type socks4 is not supported/),
  );
  assert.throws(
    () => proxyFor(new URL("https://r.example/"), { https: "http://u:secret@:x" }),
    isError("InvalidConfiguration", /^HTTPS_PROXY "http:\/\/:x" is not a URL$/),
  );
});

const EXEMPT: readonly (readonly [list: string, url: string, exempt: boolean])[] = [
  ["*", "https://r.example", true],
  ["r.example", "https://r.example", true],
  ["r.example", "https://sub.r.example", true],
  ["r.example", "https://other-r.example", false],
  [".r.example", "https://r.example", false],
  [".r.example", "https://sub.r.example", true],
  ["*.r.example", "https://sub.r.example", true],
  ["R.Example", "https://r.example", true],
  ["a.example, r.example:5000", "https://r.example:5000", true],
  ["r.example:5000", "https://r.example", false],
  ["r.example:443", "https://r.example", true],
  ["10.0.0.0/8", "https://10.1.2.3:5000", true],
  ["10.0.0.0/8", "https://11.1.2.3", false],
  ["10.0.0.0/8", "https://ten.example", false],
  ["192.168.1.1", "http://192.168.1.1", true],
  ["192.168.1.1:80", "http://192.168.1.1", true],
  ["192.168.1.1:81", "http://192.168.1.1", false],
  ["fd00::/8", "https://[fd00::1]:5000", true],
  ["[fd00::1]:5000", "https://[fd00::1]:5000", true],
  ["fd00::1", "https://[fd00::2]", false],
  ["10.0.0.0/99, ,", "https://10.0.0.1", false],
];

test("NO_PROXY: names, their subdomains, ports, addresses and networks", () => {
  for (const [no, url, exempt] of EXEMPT)
    assert.equal(proxyFor(new URL(url), { http: "p:1", https: "p:1", no }) === undefined, exempt, `${no} ${url}`);
});

interface TestProxy {
  readonly host: string;
  /** "CONNECT r.example:443" or "GET http://…", with the login. */
  readonly asked: string[];
}

/** Sends everything to `target` ("host:port"), whatever name it is for. */
async function proxyTo(t: TestContext, target: string, refuse?: number): Promise<TestProxy> {
  const [address = "", port = ""] = target.split(":");
  const asked: string[] = [];
  const note = (request: IncomingMessage): void =>
    void asked.push(`${request.method} ${request.url} ${request.headers["proxy-authorization"] ?? "-"}`);
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    note(request);
    if (refuse !== undefined) return void response.writeHead(refuse).end();
    const { pathname, search } = new URL(request.url ?? "");
    const onward = httpRequest(
      { host: address, port, path: pathname + search, method: request.method, headers: request.headers },
      (answer) => {
        response.writeHead(answer.statusCode ?? 0, answer.headers);
        answer.pipe(response);
      },
    );
    return void request.pipe(onward);
  });
  server.on("connect", (request, socket) => {
    note(request);
    if (refuse !== undefined) return void socket.end(`HTTP/1.1 ${refuse} No\r\n\r\n`);
    const onward = connect(Number(port), address, () => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      onward.pipe(socket).pipe(onward);
    });
    return void onward.on("error", () => socket.destroy());
  });
  return { host: await listen(t, server), asked };
}

async function listen(t: TestContext, server: Server & { closeAllConnections?: () => void }): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections?.();
    server.close();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function pull(t: TestContext, reference: string, proxy: ProxySettings, configs = {}): Promise<string> {
  const http = new HttpClient();
  t.after(() => http.close());
  const options = {
    reference: withDefaultTag(parseReference(reference)),
    registries: { proxy, ...configs },
    retry: QUICK,
  };
  const client = new RegistryClient(http, options);
  const { digest } = await client.manifest();
  await client.small({ mediaType: "application/json", digest: built.id, size: built.config.length });
  return digest;
}

test("plain HTTP through a proxy that wants a login", async (t) => {
  const registry = await FakeRegistry.start();
  t.after(() => registry.close());
  registry.push("a", "1", built);
  const proxy = await proxyTo(t, registry.host);
  const mirrors = { "r.example:5000": ["http://r.example:5000"] };
  const settings = { http: `http://user:p%40ss@${proxy.host}` };
  assert.equal(await pull(t, "r.example:5000/a:1", settings, { mirrors }), built.manifestDigest);
  const login = `Basic ${Buffer.from("user:p@ss").toString("base64")}`;
  assert.deepEqual(proxy.asked, [
    `GET http://r.example:5000/v2/a/manifests/1 ${login}`,
    `GET http://r.example:5000/v2/a/blobs/${built.id} ${login}`,
  ]);
  const refusing = await proxyTo(t, registry.host, 407);
  await assert.rejects(
    pull(t, "r.example:5000/a:1", { http: refusing.host }, { mirrors }),
    isError("Unavailable", /the proxy answered 407: it wants a user/),
  );
});

test("HTTPS through one tunnel, with the registry's own certificate", async (t) => {
  const registry = await FakeRegistry.start();
  t.after(() => registry.close());
  registry.push("a", "1", built);
  const directory = scratch(t);
  const made = certificate(directory, "server", "DNS:r.example");
  if (made === undefined) return t.skip("openssl cannot make a certificate here");
  const names: (string | false)[] = [];
  const server = createSecureServer({ cert: made.cert, key: made.key }, (request, response) => {
    names.push((request.socket as import("node:tls").TLSSocket).servername ?? "");
    registry.answer(request, response, new URL(request.url ?? "/", "https://x"));
  });
  const proxy = await proxyTo(t, await listen(t, server));
  const configs = { configs: { "r.example": { tls: { skipVerify: false, caFile: `${directory}/server.pem` } } } };
  assert.equal(await pull(t, "r.example/a:1", { https: proxy.host }, configs), built.manifestDigest);
  assert.deepEqual(proxy.asked, ["CONNECT r.example:443 -"], "one tunnel for all");
  assert.deepEqual(names, ["r.example", "r.example"]);
  await assert.rejects(
    pull(t, "r.example/a:1", { https: proxy.host }),
    isError("Unavailable", /certificate is not trusted/),
  );
  const refusing = await proxyTo(t, registry.host, 407);
  await assert.rejects(
    pull(t, "r.example/a:1", { https: refusing.host }),
    isError("Unavailable", /the proxy .* answered 407 to CONNECT r\.example:443: it wants a user and password/),
  );
  return undefined;
});

/** SOCKS 5 with a login, to `target` whatever is asked for; what was asked for in `asked`. */
async function socksTo(t: TestContext, target: string, password: string): Promise<TestProxy> {
  const [address = "", port = ""] = target.split(":");
  const asked: string[] = [];
  const server = createTcpServer((socket) => {
    const answers: ((bytes: Buffer) => Buffer)[] = [
      () => Buffer.from([5, 2]),
      (bytes) => Buffer.from([1, bytes.subarray(3 + (bytes[1] ?? 0)).toString() === password ? 0 : 1]),
      (bytes) => {
        const host = bytes[3] === 3 ? bytes.subarray(5, -2).toString() : bytes.subarray(4, -2).toString("hex");
        asked.push(`${bytes[3]} ${host}:${bytes.readUInt16BE(bytes.length - 2)}`);
        if (host === "refused.example") return Buffer.from([5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
        const onward = connect(Number(port), address, () => onward.pipe(socket).pipe(onward));
        onward.on("error", () => socket.destroy());
        return Buffer.from([5, 0, 0, 1, 127, 0, 0, 1, 0, 80]);
      },
    ];
    const answer = (bytes: Buffer): void => {
      const next = answers.shift();
      if (answers.length === 0) socket.off("data", answer);
      if (next !== undefined) socket.write(next(bytes));
    };
    socket.on("data", answer).on("error", () => socket.destroy());
  });
  return { host: await listen(t, server), asked };
}

test("a SOCKS 5 proxy with a login, which looks names up itself, for all that hosts.toml names it for", async (t) => {
  const registry = await FakeRegistry.start();
  t.after(() => registry.close());
  registry.push("a", "1", built);
  const proxy = await socksTo(t, registry.host, "p@ss");
  const directory = scratch(t);
  const through = async (login: string, host: string): Promise<string> => {
    mkdirSync(join(directory, "r.example"), { recursive: true });
    const toml = `server = "http://${host}"\nproxy = "socks5h://${login}@${proxy.host}"\n`;
    writeFileSync(join(directory, "r.example", "hosts.toml"), toml);
    return await pull(t, "r.example/a:1", { no: "*" }, { hostsDirs: [directory] });
  };
  assert.equal(await through("user:p%40ss", "r.example:5000"), built.manifestDigest);
  assert.equal(await through("user:p%40ss", "[fd00::1]"), built.manifestDigest);
  assert.deepEqual(proxy.asked, ["3 r.example:5000", `4 fd00${"0".repeat(27)}1:80`]);
  await assert.rejects(through("user:wrong", "r.example"), isError("Unavailable", /it refuses the user and password/));
  await assert.rejects(
    through("user:p%40ss", "refused.example"),
    isError("Unavailable", /it says "connection refused" of the connection to refused\.example:80/),
  );
});

test("an abort does not wait for a proxy that says nothing", async (t) => {
  const silent = createServer();
  const asked = new Promise((resolve) => silent.once("connect", resolve));
  silent.on("connect", () => undefined);
  const host = await listen(t, silent);
  const http = new HttpClient();
  t.after(() => http.close());
  const abort = new AbortController();
  const request = http.request({
    method: "GET",
    url: new URL("https://r.example/v2/"),
    headers: {},
    proxy: { https: host },
    signal: abort.signal,
  });
  const refused = assert.rejects(request, isError("Canceled"));
  await asked;
  abort.abort();
  await refused;
  await assert.rejects(
    http.request({
      method: "GET",
      url: new URL("https://r.example/v2/"),
      headers: {},
      proxy: { https: host },
      dialTimeoutMs: 50,
    }),
    isError("Unavailable", /no connection within 0\.05 s|cannot be used: no answer/),
  );
});

test("a proxy that is not there is told as the proxy", async (t) => {
  const registry = await FakeRegistry.start();
  const { host } = registry;
  await registry.close();
  await assert.rejects(
    pull(t, "r.example/a:1", { https: host }),
    isError("Unavailable", /the proxy 127\.0\.0\.1:\d+ cannot be used: .*ECONNREFUSED/),
  );
  const mirrors = { "r.example": ["http://r.example"] };
  await assert.rejects(
    pull(t, "r.example/a:1", { http: host }, { mirrors }),
    isError("Unavailable", /the proxy 127\.0\.0\.1:\d+ cannot be used: .*ECONNREFUSED/),
  );
});
