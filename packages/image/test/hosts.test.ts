import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { ImageError } from "../src/errors.ts";
import { credentialsFor } from "../src/registry/credentials.ts";
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
  const hosts = await hostsFor("registry.k8s.io", { hostsDirs: [directory] });
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
  const base = async (domain: string): Promise<string | undefined> =>
    (await hostsFor(domain, { hostsDirs: [directory] }))[0]?.base;
  assert.equal(await base("a.example:5000"), "https://underscores.example/v2");
  assert.equal(await base("b.example:5000"), "https://colon.example/v2");
  assert.equal(await base("c.example"), "https://plain.example/v2");
  assert.equal(await base("d.example"), "https://default.example/v2");
  assert.equal(
    (await hostsFor("d.example", { hostsDirs: [join(directory, "absent")] }))[0]?.base,
    "https://d.example/v2",
  );
});

test("certificates are read beside the file, or by absolute path", async (t) => {
  const directory = hostsDir(t, {
    "r.example/hosts.toml":
      'ca = ["ca.pem"]\nclient = [["cert.pem", "key.pem"]]\n[host."https://m.example"]\nca = "ca.pem"',
    "r.example/ca.pem": "CA",
    "r.example/cert.pem": "CERT",
    "r.example/key.pem": "KEY",
  });
  const [mirror, server] = await hostsFor("r.example", { hostsDirs: [directory] });
  assert.deepEqual(mirror?.tls, { ca: ["CA"] });
  assert.deepEqual(server?.tls, { ca: ["CA"], clients: [{ cert: "CERT", key: "KEY" }] });
  assert.equal(server?.base, "https://r.example/v2");
});

test("a directory without a hosts.toml has certificates by Docker's names", async (t) => {
  const directory = hostsDir(t, {
    "r.example_5000_/b.crt": "B",
    "r.example_5000_/a.crt": "A",
    "r.example_5000_/x.cert": "CERT",
    "r.example_5000_/x.key": "KEY",
    "r.example_5000_/both.cert": "BOTH",
    "_default/hosts.toml": 'server = "https://not-this.example"',
  });
  const hosts = await hostsFor("r.example:5000", { hostsDirs: [directory] });
  assert.deepEqual(hosts, [
    {
      base: "https://r.example:5000/v2",
      capabilities: ["pull", "resolve", "push", "referrers"],
      headers: {},
      tls: {
        ca: ["A", "B"],
        clients: [
          { cert: "BOTH", key: "BOTH" },
          { cert: "CERT", key: "KEY" },
        ],
      },
      mirror: false,
    },
  ]);
});

test("several directories: the first that knows the registry counts", async (t) => {
  const first = hostsDir(t, { "a.example/hosts.toml": 'server = "https://first.example"' });
  const second = hostsDir(t, {
    "a.example/hosts.toml": 'server = "https://second.example"',
    "b.example/hosts.toml": 'server = "https://second.example"',
  });
  const base = async (domain: string): Promise<string | undefined> =>
    (await hostsFor(domain, { hostsDirs: [first, second] }))[0]?.base;
  assert.equal(await base("a.example"), "https://first.example/v2");
  assert.equal(await base("b.example"), "https://second.example/v2");
});

test("without a server the registry itself can do all, with the file's certificates and headers", async (t) => {
  const directory = hostsDir(t, {
    "docker.io/hosts.toml": `
      ca = "ca.pem"
      capabilities = ["pull"]
      dial_timeout = "1m30s"
      [header]
        X-All = "1"
      [host."https://mirror.example"]
        capabilities = []
    `,
    "docker.io/ca.pem": "CA",
  });
  const hosts = await hostsFor("docker.io", { hostsDirs: [directory] });
  assert.deepEqual(hosts[1], {
    base: "https://registry-1.docker.io/v2",
    capabilities: ["pull", "resolve", "push", "referrers"],
    headers: { "x-all": ["1"] },
    tls: { ca: ["CA"] },
    mirror: false,
    dialTimeoutMs: 90_000,
  });
  assert.deepEqual(hosts[0]?.capabilities, ["pull", "resolve", "push", "referrers"], "none named is all");
});

test("ns goes to every host that is not the registry", async (t) => {
  const directory = hostsDir(t, {
    "r.example/hosts.toml": 'server = "https://elsewhere.example"\n[host."https://r.example"]',
    "docker.io/hosts.toml": 'server = "https://registry-1.docker.io"',
  });
  const mirrors = async (domain: string): Promise<boolean[]> =>
    (await hostsFor(domain, { hostsDirs: [directory] })).map(({ mirror }) => mirror);
  assert.deepEqual(await mirrors("r.example"), [false, true]);
  assert.deepEqual(await mirrors("docker.io"), [false]);
});

test("plain HTTP with TLS settings, and loopback without any: both schemes are tried", async (t) => {
  const directory = hostsDir(t, {
    "a.example/hosts.toml": '[host."http://m.example:5000"]\nskip_verify = true\n[host."http://m.example"]\nca = "ca"',
    "b.example/hosts.toml": '[host."http://m.example:5000"]\nca = "ca"',
    "a.example/ca": "CA",
    "b.example/ca": "CA",
  });
  const tried = async (domain: string): Promise<unknown[]> =>
    (await hostsFor(domain, { hostsDirs: [directory] })).map(({ base, other }) => [base, other?.base]);
  assert.deepEqual((await tried("a.example")).slice(0, 2), [
    ["http://m.example:5000/v2", "https://m.example:5000/v2"],
    ["http://m.example/v2", undefined],
  ]);
  assert.deepEqual((await tried("b.example"))[0], ["https://m.example:5000/v2", "http://m.example:5000/v2"]);
  assert.deepEqual(await tried("localhost:5000"), [["http://localhost:5000/v2", "https://localhost:5000/v2"]]);
  assert.deepEqual(await tried("localhost:80"), [["http://localhost:80/v2", undefined]]);
  assert.deepEqual((await hostsFor("localhost"))[0]?.tls, { skipVerify: true });
});

test("the older tables: endpoints in order, a wildcard, TLS and credentials by host", async (t) => {
  const directory = hostsDir(t, { ca: "CA", cert: "CERT", key: "KEY" });
  const config = {
    mirrors: {
      "docker.io": ["https://one.example", "two.example/prefix", "http://127.0.0.1:5000"],
      "own.example": ["http://own.example"],
      "*": ["https://any.example"],
    },
    configs: {
      "one.example": {
        tls: {
          skipVerify: false,
          caFile: `${directory}/ca`,
          certFile: `${directory}/cert`,
          keyFile: `${directory}/key`,
        },
        auth: { username: "u", password: "p" },
      },
      "registry-1.docker.io": { tls: { skipVerify: true } },
    },
    headers: { "X-Meta-Source-Client": ["node"] },
  };
  const bases = async (domain: string): Promise<string[]> => (await hostsFor(domain, config)).map(({ base }) => base);
  assert.deepEqual(await bases("docker.io"), [
    "https://one.example/v2",
    "https://two.example/prefix",
    "http://127.0.0.1:5000/v2",
    "https://registry-1.docker.io/v2",
  ]);
  assert.deepEqual(await bases("own.example"), ["http://own.example/v2"]);
  assert.deepEqual(await bases("else.example"), ["https://any.example/v2", "https://else.example/v2"]);
  const [one, two, , last] = await hostsFor("docker.io", config);
  assert.deepEqual(one?.tls, { ca: ["CA"], clients: [{ cert: "CERT", key: "KEY" }] });
  assert.deepEqual(last?.tls, { skipVerify: true });
  assert.deepEqual([one?.mirror, last?.mirror], [true, false]);
  assert.deepEqual(two?.headers, { "x-meta-source-client": ["node"] });
  assert.deepEqual(credentialsFor(one as { base: string }, { registries: config }), { username: "u", password: "p" });
  assert.equal(credentialsFor(two as { base: string }, { registries: config }), undefined);
});

test("a registry that the directories say nothing of has its TLS from the older tables", async (t) => {
  const directory = hostsDir(t, { "a.example/hosts.toml": 'server = "https://a.example"' });
  const tls = { skipVerify: true };
  const config = { hostsDirs: [directory], configs: { "a.example": { tls }, "b.example": { tls } } };
  assert.deepEqual((await hostsFor("a.example", config))[0]?.tls, {});
  assert.deepEqual((await hostsFor("b.example", config))[0]?.tls, { skipVerify: true });
});

test("older tables that are wrong are told", async () => {
  const refused = async (
    domain: string,
    mirrors: Record<string, string[]>,
    tls: object,
    message: RegExp,
  ): Promise<void> =>
    await assert.rejects(
      hostsFor(domain, { mirrors, configs: { [domain]: { tls: { skipVerify: false, ...tls } } } }),
      (error) => error instanceof ImageError && error.code === "InvalidConfiguration" && message.test(error.message),
    );
  await refused("r.example", {}, { certFile: "/x" }, /configs\."r\.example"\.tls: cert_file and key_file go together/);
  await refused("r.example", {}, { caFile: "/none" }, /configs\."r\.example"\.tls: cannot read \/none/);
  await refused("r.example", { "r.example": ["ftp://x"] }, {}, /endpoint: "ftp:\/\/x" is no host or http/);
});

const WRONG: readonly (readonly [name: string, text: string, message: RegExp])[] = [
  ["no TOML", "server = ", /hosts\.toml: /],
  ["an unknown key", 'servers = "x"', /unknown key "servers"/],
  ["an unknown key of a host", '[host."https://x"]\ncapability = []', /unknown key "capability"/],
  [
    "an unknown capability",
    '[host."https://x"]\ncapabilities = ["fetch"]',
    /capabilities must be a list of "pull", "resolve", "push", "referrers"/,
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
      hostsFor("r.example", { hostsDirs: [directory] }),
      (error) =>
        error instanceof ImageError &&
        error.code === "InvalidConfiguration" &&
        message.test(error.message) &&
        error.message.includes(directory),
    );
  });
}
