import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { CdiError } from "../src/errors.ts";
import { parseCdiSpec } from "../src/parse.ts";
import { minimumVersion } from "../src/version.ts";
import { formatSpec } from "../src/write.ts";
import type { CdiSpec, ContainerEdits } from "../src/types.ts";

const EDITS: ContainerEdits = { env: ["A=1"] };
const spec = (changes: Partial<CdiSpec> = {}, edits: ContainerEdits = EDITS): CdiSpec => ({
  cdiVersion: "0.3.0",
  kind: "vendor.com/class",
  devices: [{ name: "dev", containerEdits: edits }],
  ...changes,
});
const parse = (value: unknown): CdiSpec => parseCdiSpec(JSON.stringify(value), "/f.yaml");

test("each version is required by what it brought, and by nothing else", () => {
  const cases: readonly (readonly [string, CdiSpec])[] = [
    ["0.3.0", spec()],
    ["0.4.0", spec({}, { mounts: [{ hostPath: "/a", containerPath: "/a", type: "bind" }] })],
    ["0.5.0", spec({}, { deviceNodes: [{ path: "/dev/a", hostPath: "/dev/b" }] })],
    ["0.5.0", spec({ devices: [{ name: "0", containerEdits: EDITS }] })],
    ["0.6.0", spec({ annotations: { a: "b" } })],
    ["0.6.0", spec({ devices: [{ name: "a", annotations: { a: "b" }, containerEdits: EDITS }] })],
    ["0.6.0", spec({ kind: "vendor.com/a.b" })],
    ["0.7.0", spec({}, { intelRdt: {} })],
    ["0.7.0", spec({ containerEdits: { additionalGids: [5] } })],
    ["1.1.0", spec({}, { netDevices: [{ hostInterfaceName: "eth1", name: "net0" }] })],
    ["1.1.0", spec({}, { intelRdt: { schemata: [] } })],
    ["1.1.0", spec({}, { intelRdt: { enableMonitoring: true } })],
  ];
  for (const [version, value] of cases) {
    assert.equal(minimumVersion(value), version, JSON.stringify(value));
    assert.equal(parse({ ...value, cdiVersion: version }).kind, value.kind);
    assert.equal(parse({ ...value, cdiVersion: `v${version}` }).kind, value.kind);
    const lower = {
      "0.3.0": "0.2.0",
      "0.4.0": "0.3.0",
      "0.5.0": "0.4.0",
      "0.6.0": "0.5.0",
      "0.7.0": "0.6.0",
      "1.1.0": "1.0.0",
    }[version];
    assert.throws(() => parse({ ...value, cdiVersion: lower }), {
      message: `/f.yaml:1:15: cdiVersion: the spec version must be at least v${version}`,
    });
  }
  for (const unknown of ["", "0.9.0", "1.2.0", "1.1", "vv1.1.0"])
    assert.throws(() => parse(spec({ cdiVersion: unknown })), /cdiVersion: invalid version/);
});

test("what is invalid is refused, naming device and field", () => {
  const node = (value: object): CdiSpec =>
    spec({ cdiVersion: "1.1.0" }, { deviceNodes: [{ path: "/dev/a", ...value }] });
  const cases: readonly (readonly [unknown, RegExp])[] = [
    [spec({ devices: [] }), /devices: invalid spec, no devices/],
    [spec({ kind: "class" }), /kind: invalid vendor\. empty name/],
    [spec({ kind: "v/-c" }), /kind: invalid class\. "-c", should start with letter/],
    [
      spec({ devices: [...spec().devices, ...spec().devices] }),
      /devices\[1\]\.name: invalid spec, multiple device "dev"/,
    ],
    [spec({}, {}), /device "vendor\.com\/class=dev": devices\[0\]\.containerEdits: invalid device, empty device edits/],
    [spec({}, { env: ["=1"] }), /containerEdits\.env\[0\]: invalid environment variable "=1"/],
    [spec({ containerEdits: { env: ["A"] } }), /containerEdits\.env\[0\]: invalid environment variable "A"/],
    [node({ path: "" }), /invalid \(empty\) device path/],
    [node({ type: "x" }), /deviceNodes\[0\]\.type: device "\/dev\/a": invalid type "x"/],
    [node({ permissions: "rx" }), /permissions: device "\/dev\/a": invalid permissions "rx"/],
    [node({ path: "/dev/../etc/shadow" }), /path: "\/dev\/\.\.\/etc\/shadow" climbs/],
    [node({ hostPath: "../sda" }), /hostPath: "\.\.\/sda" is not an absolute path/],
    [spec({}, { hooks: [{ hookName: "start", path: "/a" }] }), /invalid hook name "start"/],
    [spec({}, { hooks: [{ hookName: "prestart", path: "" }] }), /invalid hook "prestart" with empty path/],
    [
      spec({}, { hooks: [{ hookName: "prestart", path: "bin/x" }] }),
      /hooks\[0\]\.path: "bin\/x" is not an absolute path/,
    ],
    [spec({}, { mounts: [{ hostPath: "", containerPath: "/a" }] }), /invalid mount, empty host path/],
    [spec({}, { mounts: [{ hostPath: "/a", containerPath: "" }] }), /invalid mount, empty container path/],
    [spec({}, { mounts: [{ hostPath: "/a/../../b", containerPath: "/a" }] }), /mounts\[0\]\.hostPath: .* climbs/],
    [spec({ cdiVersion: "1.1.0" }, { intelRdt: { closID: "a/b" } }), /intelRdt\.closID: invalid ClosID "a\/b"/],
    [
      spec(
        { cdiVersion: "1.1.0" },
        {
          netDevices: [
            { hostInterfaceName: "e", name: "a" },
            { hostInterfaceName: "e", name: "b" },
          ],
        },
      ),
      /duplicate HostInterfaceName "e" with names "b" and "a"/,
    ],
    [
      spec(
        { cdiVersion: "1.1.0" },
        {
          netDevices: [
            { hostInterfaceName: "e", name: "a" },
            { hostInterfaceName: "f", name: "a" },
          ],
        },
      ),
      /duplicate Name "a" with HostInterfaceName "f" and "e"/,
    ],
    [{ ...spec(), device: [] }, /device: unknown field \(did you mean "devices"\?\)/],
    [node({ "host-path": "/x" }), /device "vendor\.com\/class=dev": .*host-path: unknown field/],
    [spec({}, { intelRdt: { enableCMT: true } as object }), /intelRdt\.enableCMT: unknown field/],
    [{ ...spec(), kind: undefined }, /"kind" is missing/],
    [spec({ devices: [{ name: "dev" } as never] }), /devices\[0\]: "containerEdits" is missing/],
    [spec({}, { env: "A=1" as never }), /env: is a text, not a list/],
    [node({ major: "one" }), /major: is a text, not a whole number/],
    [node({ uid: -1 }), /uid: -1 is not between 0 and 4294967295/],
    [[], /is a list, not a map of fields/],
    [null, /no CDI specification in it/],
  ];
  for (const [value, message] of cases) {
    assert.throws(
      () => parse(value),
      (error: Error) =>
        error instanceof CdiError && error.message.startsWith("/f.yaml:1:") && message.test(error.message),
      JSON.stringify(value),
    );
  }
});

test("permissions and types that are valid", () => {
  for (const permissions of ["", "r", "rwm", "mrw", "none"])
    assert.ok(parse(spec({}, { deviceNodes: [{ path: "/dev/a", permissions }] })));
  for (const type of ["", "b", "c", "u", "p"]) assert.ok(parse(spec({}, { deviceNodes: [{ path: "/dev/a", type }] })));
});

test("YAML as the reference reads it: texts that look like numbers, octal modes, aliases and merges", () => {
  const text = `cdiVersion: 0.6.0
kind: v.com/gpu
devices:
- name: 0
  containerEdits: &edits
    deviceNodes: [{path: /dev/a, fileMode: 0660, major: 1}]
- name: 1:0
  containerEdits: *edits
- name: yes
  containerEdits:
    <<: *edits
    env: [DATE=1, 2001-01-01=2]
    hooks: [{hookName: prestart, path: /a, args: [755, true, ~]}]
`;
  const { devices } = parseCdiSpec(text);
  assert.deepEqual(
    devices.map(({ name }) => name),
    ["0", "1:0", "true"],
  );
  const [first, second, third] = devices.map(({ containerEdits }) => containerEdits);
  assert.deepEqual(first?.deviceNodes, [{ path: "/dev/a", major: 1, fileMode: 0o660 }]);
  assert.deepEqual(second, first);
  assert.deepEqual(third?.deviceNodes, first?.deviceNodes);
  assert.deepEqual(third?.hooks?.[0]?.args, ["755", "true", ""]);
});

test("broken documents name line and column", () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ["cdiVersion: 0.5.0\nkind: [x", /^\/f\.yaml:2:\d+: /],
    ["kind: a\nkind: b\n", /^\/f\.yaml:2:1: map keys must be unique/],
    ["", /^\/f\.yaml:1:1: no CDI specification/],
    ["a: 1\n---\nb: 2\n", /^\/f\.yaml:2:1: a second document/],
    ['{"cdiVersion": "0.5.0",\n "kind": "v/c", "devices": [', /^\/f\.yaml:2:\d+: /],
    ["\0\u0001", /^\/f\.yaml:1:\d+: /],
  ];
  for (const [text, message] of cases) assert.throws(() => parseCdiSpec(text, "/f.yaml"), { message }, text);
});

test("aliases that multiply do not exhaust memory", () => {
  const lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"];
  for (let level = 1; level < 12; level++)
    lines.push(`a${level}: &a${level} [${Array.from({ length: 10 }, () => `*a${level - 1}`).join(", ")}]`);
  assert.throws(() => parseCdiSpec(lines.join("\n"), "/f.yaml"), /\/f\.yaml:1:\d+: a0: unknown field/);
});

const edits = fc.record(
  {
    env: fc.array(fc.string().map((text) => `K=${text.replaceAll("\0", "")}`)),
    mounts: fc.array(
      fc.record(
        {
          hostPath: fc.constantFrom("/a", "/b c", "/yes", "/x: y"),
          containerPath: fc.constantFrom("/#c", "/d"),
          options: fc.array(
            fc.constantFrom("ro", "1", "", "null", "a b", "- x", "'", '"', "ä\u0007", "2001-01-01", "a\nb", "\nq\n\n"),
          ),
        },
        { requiredKeys: ["hostPath", "containerPath"] },
      ),
    ),
    additionalGids: fc.array(fc.nat()),
    intelRdt: fc.record({ enableMonitoring: fc.boolean() }),
  },
  { requiredKeys: ["intelRdt"] },
);

test("what is written, as YAML or JSON, is what is read", () => {
  fc.assert(
    fc.property(edits, edits, (own, device) => {
      const value = spec({
        cdiVersion: "1.1.0",
        containerEdits: own,
        devices: [{ name: "a", containerEdits: device }],
      });
      for (const extension of [".yaml", ".json"]) {
        const read = parseCdiSpec(formatSpec(value, extension));
        assert.deepEqual(JSON.parse(JSON.stringify(read)), JSON.parse(JSON.stringify(value)));
      }
    }),
  );
});

const fixture = (name: string): string => readFileSync(new URL(`fixtures/${name}`, import.meta.url), "utf8");

test("the published documents, repaired, are specifications; as published they are errors with line and column", () => {
  const mock = parseCdiSpec(fixture("mock.yaml"));
  assert.equal(mock.kind, "mock.com/gpu");
  assert.deepEqual(
    mock.devices.map(({ name }) => name),
    Array.from({ length: 8 }, (_, index) => `device_${index}`),
  );
  const nvidia = parseCdiSpec(fixture("nvidia.yaml"));
  assert.deepEqual(
    nvidia.devices.map(({ name }) => name),
    ["0", "all"],
  );
  assert.equal(nvidia.containerEdits?.mounts?.length, 40);
  assert.throws(() => parseCdiSpec(fixture("mock-as-published.txt"), "/f.yaml"), {
    message: /^\/f\.yaml:20:1: map keys must be unique$/,
  });
  assert.throws(() => parseCdiSpec(fixture("nvidia-as-published.txt"), "/f.yaml"), { message: /^\/f\.yaml:18:1: / });
});
