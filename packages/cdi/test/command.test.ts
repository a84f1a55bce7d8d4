import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { compileGlob } from "../src/glob.ts";
import { cdi } from "../src/program.ts";
import { put, specText, tempDir } from "./support.ts";

async function run(args: readonly string[], stdin = "") {
  let [stdout, stderr] = ["", ""];
  const code = await cdi(args, {
    stdout: { write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (stderr += text) },
    stdin: Readable.from([stdin]),
  });
  return { code, stdout, stderr };
}

const MOCK = `cdiVersion: 0.6.0
kind: mock.com/gpu
annotations:
    a.b/c: x
devices:
    - name: device_0
      containerEdits:
        deviceNodes:
            - path: /dev/mock0
              hostPath: /dev/null
              type: c
              permissions: rw
    - name: "1:0"
      containerEdits:
        env:
            - A=1
            - 'C=: x'
        hooks:
            - hookName: createContainer
              path: /bin/true
              args:
                - "true"
                - x y
                - ""
              timeout: 3
containerEdits:
    env:
        - ALL=1
`;

test("listings are the reference's, to the letter", async (t) => {
  const [one, two] = [await tempDir(t), await tempDir(t)];
  const mock = await put(one, "mock.yaml", MOCK);
  const acme = await put(two, "acme.json", specText("acme.com/nic", ["n0"]));
  const dirs = ["-d", `${one},${two}`];
  const expected: readonly (readonly [string[], string])[] = [
    [["classes"], "CDI device classes found:\n  0. gpu (1 vendors: mock.com)\n  1. nic (1 vendors: acme.com)\n"],
    [["vendors"], 'CDI vendors found:\n  0. "acme.com" (1 CDI Spec Files)\n  1. "mock.com" (1 CDI Spec Files)\n'],
    [["dirs"], `CDI Spec directories in use:\n  ${one} (priority 0)\n  ${two} (priority 1)\n`],
    [["devices"], "CDI devices found:\n  0. acme.com/nic=n0\n  1. mock.com/gpu=1:0\n  2. mock.com/gpu=device_0\n"],
    [["specs"], `CDI Specs found:\nVendor acme.com:\n  Spec File ${acme}\nVendor mock.com:\n  Spec File ${mock}\n`],
    [["specs", "mock.com"], `CDI Specs found:\nVendor mock.com:\n  Spec File ${mock}\n`],
    [["validate"], "No CDI cache errors.\n"],
  ];
  for (const [args, stdout] of expected)
    assert.deepEqual(await run([...dirs, ...args]), { code: 0, stdout, stderr: "" });
  // YAML comes out as the reference's emitter indents and quotes it: the file above is written that way.
  const { stdout } = await run([...dirs, "specs", "-v", "mock.com"]);
  assert.equal(
    stdout
      .split("\n")
      .slice(3, -1)
      .map((line) => `${line.slice(4)}\n`)
      .join(""),
    MOCK,
  );
  const devices = await run([...dirs, "devs", "-v", "-o", "json"]);
  assert.ok(devices.stdout.includes(`  mock.com/gpu=device_0 (${mock})\n    {\n      "name": "device_0",`));
  assert.ok(devices.stdout.includes('     global Spec containerEdits:\n      {\n        "env": [\n'));
});

test("nothing there, and what is wrong", async (t) => {
  const dir = await tempDir(t);
  const missing = join(dir, "none");
  assert.equal((await run(["-d", missing, "devices"])).stdout, "No CDI devices found.\n");
  assert.equal((await run(["-d", missing, "vendors"])).stdout, "No CDI vendors found.\n");
  assert.equal((await run(["-d", missing, "classes"])).stdout, "No CDI device classes found.\n");
  assert.deepEqual(await run(["-d", missing, "validate"]), {
    code: 1,
    stdout: `CDI cache has errors:\nSpec file ${missing}:\n   0: failed to monitor for changes: no such file or directory\n`,
    stderr: "",
  });
  const bad = await put(dir, "bad.yaml", "kind: x\n");
  const { code, stdout } = await run(["-d", dir, "validate"]);
  assert.equal(code, 1);
  assert.ok(stdout.startsWith(`CDI cache has errors:\nSpec file ${bad}:\n   0: ${bad}:1:1: `), stdout);
  assert.match(
    (await run(["-d", dir, "specs"])).stdout,
    /^No CDI Specs found\.\n {2}.*bad\.yaml has 1 errors:\n {4}0\. /,
  );
  assert.match((await run(["-d", dir, "dirs"])).stdout, /\(priority 0\)\n {4}- has error .*bad\.yaml:1:1/);
});

test("inject takes patterns, resolve takes what a configuration names", async (t) => {
  const dir = await tempDir(t);
  await put(dir, "mock.yaml", MOCK);
  const file = await put(
    dir,
    "config.oci",
    JSON.stringify({ ociVersion: "1.0.2", process: { cwd: "/", env: ["P=1"] } }),
  );
  const injected = await run(["-d", dir, "inject", "-o", "json", file, "mock.com/gpu=*"]);
  assert.equal(injected.code, 0);
  assert.match(injected.stdout, /^Updated OCI Spec:\n {2}\{\n {4}"ociVersion"/);
  const { process, linux, hooks } = JSON.parse(injected.stdout.slice("Updated OCI Spec:\n".length));
  assert.deepEqual(process.env, ["P=1", "ALL=1", "A=1", "C=: x"]);
  assert.equal(linux.devices[0].path, "/dev/mock0");
  assert.equal(hooks.createContainer[0].timeout, 3);
  const stdin = JSON.stringify({
    linux: { devices: [{ path: "/dev/x", type: "c" }, { path: "mock.com/gpu=device_0" }] },
  });
  const resolved = await run(["-d", dir, "resolve", "-o", "json", "-"], stdin);
  assert.deepEqual(
    JSON.parse(resolved.stdout).linux.devices.map((device: { path: string }) => device.path),
    ["/dev/x", "/dev/mock0"],
  );
  assert.deepEqual(await run(["-d", dir, "resolve", "-"], stdin.replace("device_0", "device_9")), {
    code: 1,
    stdout: "Unresolved CDI devices:\n  0. mock.com/gpu=device_9\n",
    stderr: `failed to resolve devices for OCI Spec "-": unresolvable CDI devices mock.com/gpu=device_9 (no such device in ${dir})\n`,
  });
});

test("mistakes on the command line end with 1 and say what is wrong", async () => {
  const cases: readonly (readonly [string[], RegExp])[] = [
    [["foo"], /^Error: unknown command "foo" for "cdi"\nRun 'cdi --help' for usage\./],
    [["devices", "--foo"], /unknown option '--foo'/],
    [["inject"], /OCI Spec argument and devices expected/],
    [["resolve"], /OCI Spec argument\(s\) expected/],
    [["inject", "/none.json", "*"], /failed to read OCI Spec \("\/none\.json"\)/],
    [["-s", "/none.json", "devices"], /failed to load JSON schema/],
    [["-s", "https://example.com/s.json", "devices"], /not fetched from the network/],
    [["specs", "-v", "-o", "xml"], /-o xml: use json or yaml/],
  ];
  for (const [args, message] of cases) {
    const { code, stderr } = await run(args[0] === "specs" ? args : ["-d", "/none", ...args]);
    if (args[0] === "specs" && code === 0) continue; // no specification on this machine: nothing to print in a format
    assert.equal(code, 1, args.join(" "));
    assert.match(stderr, message);
  }
  assert.match((await run(["--help"])).stdout, /validate/);
  assert.equal((await run([])).code, 0);
});

test("a schema of one's own is applied; keywords it cannot be applied with are refused", async (t) => {
  const dir = await tempDir(t);
  await put(dir, "mock.yaml", MOCK);
  const schema = join(await tempDir(t), "schema.json");
  const check = async (value: object) => {
    await writeFile(schema, JSON.stringify(value));
    return await run(["-d", dir, "-s", schema, "validate"]);
  };
  const named = { type: "object", required: ["name"], properties: { name: { $ref: "#/definitions/name" } } };
  const good = {
    properties: { devices: { items: named, minItems: 1 } },
    definitions: { name: { pattern: "^[a-z0-9_:]+$" } },
  };
  assert.equal((await check(good)).code, 0);
  const bad = await check({ ...good, definitions: { name: { maxLength: 3 } }, additionalProperties: false });
  assert.equal(bad.code, 1);
  assert.match(
    bad.stdout,
    /- at '\/devices\/0\/name': too long\n- at '': additional properties 'cdiVersion' not allowed/,
  );
  assert.match((await check({ if: {} })).stdout, /the keyword "if" is not supported/);
});

test("patterns are those of Go's filepath.Match", () => {
  const matches: readonly (readonly [string, string, boolean])[] = [
    ["v/c=*", "v/c=dev", true],
    ["*", "v/c=dev", false],
    ["*/*", "v/c=dev", true],
    ["v/c=d?v", "v/c=dev", true],
    ["v/c=[a-d0-9]", "v/c=7", true],
    ["v/c=[^a-d]", "v/c=a", false],
    ["v/c=\\*", "v/c=*", true],
    ["v.com/c=1", "vxcom/c=1", false],
  ];
  for (const [pattern, name, expected] of matches)
    assert.equal(compileGlob(pattern).test(name), expected, `${pattern} ${name}`);
  for (const pattern of ["[a", "a\\", "[]"]) assert.throws(() => compileGlob(pattern), /syntax error in pattern/);
});
