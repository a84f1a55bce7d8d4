import assert from "node:assert/strict";
import { test } from "node:test";
import { oci } from "../src/index.ts";

const MINIMAL: oci.Spec = {
  ociVersion: "1.3.0",
  process: { user: { uid: 0, gid: 0 }, cwd: "/", args: ["sh"] },
  root: { path: "rootfs" },
};

function errors(change: object): string[] {
  return oci.validateSpec({ ...MINIMAL, ...change }).errors.map(({ field }) => field);
}

test("a minimal configuration is valid", () => {
  assert.deepEqual(oci.validateSpec(MINIMAL), { errors: [], warnings: [] });
});

test("every problem names its field", () => {
  const process = (change: object) => ({ process: { ...MINIMAL.process, ...change } });
  const linux = (change: object) => ({ linux: change });
  const cases: readonly (readonly [object, string])[] = [
    [{ ociVersion: "2.0.0" }, "ociVersion"],
    [{ ociVersion: undefined }, "ociVersion"],
    [{ root: { path: "" } }, "root.path"],
    [{ hostname: "x".repeat(65) }, "hostname"],
    [process({ cwd: "here" }), "process.cwd"],
    [process({ cwd: undefined }), "process.cwd"],
    [process({ args: ["a\0b"] }), "process.args[0]"],
    [process({ args: [7] }), "process.args[0]"],
    [process({ env: "PATH=/" }), "process.env"],
    [process({ user: undefined }), "process.user"],
    [process({ user: { uid: -1, gid: 0 } }), "process.user.uid"],
    [process({ user: { uid: 0, gid: 2 ** 32 } }), "process.user.gid"],
    [process({ user: { uid: 0, gid: 0, additionalGids: [1.5] } }), "process.user.additionalGids[0]"],
    [process({ user: { uid: 0, gid: 0, umask: 0o1000 } }), "process.user.umask"],
    [process({ oomScoreAdj: 1001 }), "process.oomScoreAdj"],
    [
      process({
        rlimits: [
          { type: "RLIMIT_CPU", soft: 1, hard: 1 },
          { type: "RLIMIT_CPU", soft: 1, hard: 1 },
        ],
      }),
      "process.rlimits[1].type",
    ],
    [process({ ioPriority: { class: "IOPRIO_CLASS_BE", priority: 8 } }), "process.ioPriority.priority"],
    [{ mounts: [{ destination: "" }] }, "mounts[0].destination"],
    [{ mounts: [{ destination: "/a", options: ["a\0"] }] }, "mounts[0].options[0]"],
    [{ mounts: [{ destination: "/a", uidMappings: [] }] }, "mounts[0]"],
    [{ hooks: { poststop: [{ path: "relative" }] } }, "hooks.poststop[0].path"],
    [{ hooks: { prestart: [{ path: "/h", timeout: 0 }] } }, "hooks.prestart[0].timeout"],
    [linux({ namespaces: [{ type: "pid" }, { type: "pid" }] }), "linux.namespaces[1].type"],
    [linux({ namespaces: [{ type: "color" }] }), "linux.namespaces[0].type"],
    [linux({ namespaces: [{ type: "pid", path: "ns" }] }), "linux.namespaces[0].path"],
    [linux({ uidMappings: [{ containerID: 0, hostID: 0, size: 1 }] }), "linux.uidMappings"],
    [
      linux({ namespaces: [{ type: "user" }], uidMappings: [{ containerID: 0, hostID: 0, size: 0 }] }),
      "linux.uidMappings[0].size",
    ],
    [
      linux({
        namespaces: [{ type: "user" }],
        gidMappings: [
          { containerID: 0, hostID: 0, size: 10 },
          { containerID: 20, hostID: 5, size: 10 },
        ],
      }),
      "linux.gidMappings[1]",
    ],
    [linux({ maskedPaths: ["proc/kcore"] }), "linux.maskedPaths[0]"],
    [linux({ readonlyPaths: [""] }), "linux.readonlyPaths[0]"],
    [linux({ devices: [{ path: "/dev/x", type: "z", major: 1, minor: 1 }] }), "linux.devices[0].type"],
    [linux({ devices: [{ path: "/dev/x", type: "c" }] }), "linux.devices[0]"],
    [linux({ resources: { devices: [{ access: "rwm" }] } }), "linux.resources.devices[0].allow"],
    [linux({ seccomp: {} }), "linux.seccomp.defaultAction"],
  ];
  for (const [change, field] of cases) assert.deepEqual(errors(change), [field], field);
});

test("what is odd but possible is a warning", () => {
  const report = oci.validateSpec({
    ...MINIMAL,
    process: { user: { uid: 0, gid: 0 }, cwd: "/", env: ["NAMELESS"], consoleSize: { height: 1, width: 1 } },
    mounts: [{ destination: "data", type: "tmpfs" }],
  });
  assert.deepEqual(report.errors, []);
  assert.deepEqual(
    report.warnings.map(({ field }) => field),
    ["process.env[0]", "process.consoleSize", "mounts[0].destination"],
  );
});

test("integers beyond JavaScript's are exact both ways", () => {
  const text =
    '{"ociVersion":"1.3.0","process":{"rlimits":[{"type":"RLIMIT_CPU","soft":18446744073709551615,"hard":9007199254740993}]},"x":1.5e300}';
  const spec = oci.parseSpec(text);
  const [limit] = spec.process?.rlimits ?? [];
  assert.deepEqual([limit?.soft, limit?.hard], [18446744073709551615n, 9007199254740993n]);
  assert.match(oci.formatSpec(spec), /"soft": 18446744073709551615,\s+"hard": 9007199254740993/);
  assert.throws(() => oci.parseSpec("{"), SyntaxError);
  assert.deepEqual(oci.parseSpec('{"ociVersion":"1.3.0","mounts":null,"linux":{"seccomp":null}}'), {
    ociVersion: "1.3.0",
    linux: {},
  });
});

test("any JSON value is answered with problems, never with an exception", () => {
  const paths = [
    "process",
    "process.user",
    "process.args",
    "process.env",
    "process.rlimits",
    "process.capabilities",
    "process.consoleSize",
    "root",
    "mounts",
    "hooks",
    "hooks.prestart",
    "linux",
    "linux.namespaces",
    "linux.uidMappings",
    "linux.devices",
    "linux.resources",
    "linux.resources.devices",
    "linux.resources.memory",
    "linux.resources.unified",
    "linux.seccomp",
    "linux.sysctl",
    "linux.maskedPaths",
  ];
  const junk: unknown[] = [null, 0, "text", true, [], [null], ["text"], [[]], {}, { entries: 1, length: 3 }];
  for (const path of paths) {
    for (const value of junk) {
      const spec = structuredClone(MINIMAL) as unknown as Record<string, unknown>;
      const keys = path.split(".");
      let at = spec;
      for (const key of keys.slice(0, -1)) at = (at[key] ??= {}) as Record<string, unknown>;
      at[keys.at(-1) ?? ""] = value;
      const { errors: found } = oci.validateSpec(spec as unknown as oci.Spec);
      if (value === null || value === 0 || value === true)
        assert.ok(found.length > 0, `${path}: ${JSON.stringify(value)}`);
      // Nothing above the wrong field is blamed.
      for (const { field } of found)
        assert.ok(
          field.startsWith(path) || path === "root" || path === "process" || path.startsWith("linux.uid"),
          `${path}: ${field}`,
        );
    }
  }
  for (const value of [...junk, undefined]) oci.validateSpec(value as oci.Spec);
});
