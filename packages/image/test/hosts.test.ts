import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { ImageError } from "../src/errors.ts";
import { hostsFor } from "../src/registry/hosts.ts";

function hostsDir(t: TestContext, files: Readonly<Record<string, string>>): string {
  const directory = mkdtempSync(join(tmpdir(), "berth-hosts-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(directory, path, ".."), { recursive: true });
    writeFileSync(join(directory, path), text);
  }
  return directory;
}

test("without a file: the registry itself, plain HTTP on loopback", async () => {
  const base = async (domain: string): Promise<string | undefined> => (await hostsFor(domain, undefined))[0]?.base;
  assert.equal(await base("docker.io"), "https://registry-1.docker.io/v2");
  assert.equal(await base("quay.io"), "https://quay.io/v2");
  assert.equal(await base("registry.local:5000"), "https://registry.local:5000/v2");
  assert.equal(await base("localhost:5000"), "http://localhost:5000/v2");
  assert.equal(await base("127.0.0.1:5000"), "http://127.0.0.1:5000/v2");
  assert.equal(await base("[::1]:5000"), "http://[::1]:5000/v2");
  assert.equal(await base("localhost:443"), "https://localhost:443/v2");
  assert.equal(await base("127.evil.com"), "https://127.evil.com/v2");
});

test("mirrors in order, then the server", async (t) => {
  const directory = hostsDir(t, {
    "registry.k8s.io/hosts.toml": `
      server = "https://registry.k8s.io"
      [host."http://127.0.0.1:5000"]
        capabilities = ["pull", "resolve"]
        skip_verify = true
      [host."https://mirror.example/cache"]
        dial_timeout = "1.5s"
      [host."https://other.example/prefix/v2"]
        override_path = true
        capabilities = ["pull"]
        [host."https://other.example/prefix/v2".header]
          X-One = "1"
          x-two = ["a", "b"]
    `,
  });
  const hosts = await hostsFor("registry.k8s.io", directory);
  assert.deepEqual(
    hosts.map(({ base, mirror }) => [base, mirror]),
    [
      ["http://127.0.0.1:5000/v2", true],
      ["https://mirror.example/cache/v2", true],
      ["https://other.example/prefix/v2", true],
      ["https://registry.k8s.io/v2", false],
    ],
  );
  assert.deepEqual(hosts[0]?.capabilities, ["pull", "resolve"]);
  assert.equal(hosts[0]?.tls.skipVerify, true);
  assert.equal(hosts[1]?.dialTimeoutMs, 1500);
  assert.deepEqual(hosts[2]?.headers, { "x-one": ["1"], "x-two": ["a", "b"] });
});

test("directories by host, by host and port in both spellings, and the default", async (t) => {
  const file = (name: string): string => `server = "https://${name}.example"`;
  const directory = hostsDir(t, {
    "a.example_5000_/hosts.toml": file("underscores"),
    "b.example:5000/hosts.toml": file("colon"),
    "c.example/hosts.toml": file("plain"),
    "_default/hosts.toml": file("default"),
  });
  const base = async (domain: string): Promise<string | undefined> => (await hostsFor(domain, directory))[0]?.base;
  assert.equal(await base("a.example:5000"), "https://underscores.example/v2");
  assert.equal(await base("b.example:5000"), "https://colon.example/v2");
  assert.equal(await base("c.example"), "https://plain.example/v2");
  assert.equal(await base("d.example"), "https://default.example/v2");
  assert.equal((await hostsFor("d.example", join(directory, "absent")))[0]?.base, "https://d.example/v2");
});

test("certificates are read beside the file, or by absolute path", async (t) => {
  const directory = hostsDir(t, {
    "r.example/hosts.toml":
      'ca = ["ca.pem"]\nclient = [["cert.pem", "key.pem"]]\n[host."https://m.example"]\nca = "ca.pem"',
    "r.example/ca.pem": "CA",
    "r.example/cert.pem": "CERT",
    "r.example/key.pem": "KEY",
  });
  const [mirror, server] = await hostsFor("r.example", directory);
  assert.deepEqual(mirror?.tls, { ca: ["CA"] });
  assert.deepEqual(server?.tls, { ca: ["CA"], cert: "CERT", key: "KEY" });
  assert.equal(server?.base, "https://r.example/v2");
});

const WRONG: readonly (readonly [name: string, text: string, message: RegExp])[] = [
  ["no TOML", "server = ", /hosts\.toml: /],
  ["an unknown key", 'servers = "x"', /unknown key "servers"/],
  ["an unknown key of a host", '[host."https://x"]\ncapability = []', /unknown key "capability"/],
  [
    "an unknown capability",
    '[host."https://x"]\ncapabilities = ["fetch"]',
    /capabilities must be a list of "pull", "resolve", "push"/,
  ],
  ["a flag that is none", '[host."https://x"]\nskip_verify = "yes"', /skip_verify must be true or false/],
  ["a duration that is none", '[host."https://x"]\ndial_timeout = 5', /dial_timeout must be a duration/],
  ["a certificate that is not there", 'ca = "none.pem"', /cannot read .*none\.pem/],
  ["a header that is none", "[header]\nx = 5", /header\.x must be/],
  ["a host that is none", '[host."http://:80"]', /must be a host/],
];

for (const [name, text, message] of WRONG) {
  test(`${name} is told`, async (t) => {
    const directory = hostsDir(t, { "r.example/hosts.toml": text });
    await assert.rejects(
      hostsFor("r.example", directory),
      (error) =>
        error instanceof ImageError &&
        error.code === "InvalidConfiguration" &&
        message.test(error.message) &&
        error.message.includes(directory),
    );
  });
}
