/** TLS: trust by hosts.toml, none without it, and registries that speak something else than was expected. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { parseReference } from "@berth/spec";
import { RegistryClient } from "../src/registry/client.ts";
import { HttpClient } from "../src/registry/http.ts";
import { certificate } from "./support/certificate.ts";
import { build, FakeRegistry } from "./support/registry.ts";
import { QUICK, scratch } from "./support/store.ts";
import { archive } from "./support/tar-writer.ts";

const built = build([archive({ name: "f", data: "x" })]);

interface Secure {
  readonly host: string;
  readonly directory: string;
  readonly inner: FakeRegistry;
  /** Subjects of the client certificates seen. */
  readonly clients: (string | undefined)[];
  pull(toml: string): Promise<string>;
}

async function secureRegistry(t: TestContext): Promise<Secure | undefined> {
  const directory = scratch(t);
  if (!certificate(directory, "server") || !certificate(directory, "client")) {
    t.skip("openssl cannot make a certificate here");
    return undefined;
  }
  const inner = await FakeRegistry.start();
  inner.push("a", "1", built);
  const clients: Secure["clients"] = [];
  const read = (name: string): Buffer => readFileSync(join(directory, name));
  const server: Server = createServer(
    { cert: read("server.pem"), key: read("server.key"), requestCert: true, rejectUnauthorized: false },
    (request, response) => {
      const socket = request.socket as import("node:tls").TLSSocket;
      const subject = socket.getPeerCertificate().subject as { CN?: string } | undefined;
      clients.push(subject?.CN);
      inner.answer(request, response, new URL(request.url ?? "/", "https://x"));
    },
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    await inner.close();
  });
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const pull = async (toml: string): Promise<string> => {
    const hostsDir = scratch(t);
    mkdirSync(join(hostsDir, "registry.example"));
    writeFileSync(join(hostsDir, "registry.example", "hosts.toml"), toml);
    const http = new HttpClient();
    t.after(() => http.close());
    return (
      await new RegistryClient(http, {
        reference: parseReference("registry.example/a:1"),
        registries: { hostsDirs: [hostsDir] },
        retry: QUICK,
      }).manifest()
    ).digest;
  };
  return { host, directory, inner, clients, pull };
}

test("a certificate that nobody vouches for is refused, with what to do", async (t) => {
  const secure = await secureRegistry(t);
  if (secure === undefined) return;
  await assert.rejects(secure.pull(`server = "https://${secure.host}"`), {
    code: "Unavailable",
    message: /certificate is not trusted .* "ca" in hosts\.toml/,
  });
});

test("a ca in hosts.toml, or skip_verify, makes it trusted; a client certificate is shown", async (t) => {
  const secure = await secureRegistry(t);
  if (secure === undefined) return;
  const { host, directory, clients } = secure;
  assert.equal(await secure.pull(`server = "https://${host}"\nca = "${directory}/server.pem"`), built.manifestDigest);
  assert.equal(await secure.pull(`server = "https://${host}"\nskip_verify = true`), built.manifestDigest);
  assert.deepEqual(clients, [undefined, undefined]);
  assert.equal(
    await secure.pull(
      `server = "https://${host}"\nca = "${directory}/server.pem"\nclient = [["${directory}/client.pem", "${directory}/client.key"]]`,
    ),
    built.manifestDigest,
  );
  assert.equal(clients.at(-1), "client");
});

test("TLS where plain HTTP is spoken, and the other way round", async (t) => {
  const secure = await secureRegistry(t);
  if (secure === undefined) return;
  await assert.rejects(secure.pull(`server = "https://${secure.inner.host}"`), {
    code: "Unavailable",
    message: /say so with http:\/\/ in hosts\.toml/,
  });
  await assert.rejects(secure.pull(`server = "http://${secure.host}"`), { code: "Unavailable" });
});
