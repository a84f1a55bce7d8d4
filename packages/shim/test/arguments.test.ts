/** What containerd tells berth's shim: flags, options, which containers belong together, where sockets are. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runcOptions, runtimeOptions, task } from "@berth/spec/shim";
import { packMessage } from "../src/index.ts";
import { groupOf, parseArguments } from "../src/server/arguments.ts";
import { optionsOf } from "../src/server/options.ts";
import { handDir, socketPath, stateDir } from "../src/server/place.ts";

test("flags as Go reads them", () => {
  const argv = [
    "-namespace",
    "k8s.io",
    "--address=/run/c.sock",
    "-publish-binary",
    "/bin/x",
    "-id",
    "abc",
    "-debug",
    "start",
  ];
  assert.deepEqual(parseArguments(argv, "/bundle"), {
    action: "start",
    namespace: "k8s.io",
    id: "abc",
    address: "/run/c.sock",
    bundle: "/bundle",
    debug: true,
    version: false,
    info: false,
  });
  assert.equal(parseArguments(["-bundle", "/b", "-debug=false", "delete"], "/").bundle, "/b");
  assert.equal(parseArguments(["-debug=false", "delete"], "/").debug, false);
  assert.equal(parseArguments(["-v"], "/").version, true);
  assert.throws(() => parseArguments(["-nonsense", "start"], "/"), /flag provided but not defined: -nonsense/);
});

test("options: runc's, another shim's, none, and what is neither", () => {
  assert.equal(optionsOf(packMessage(runcOptions.OptionsSchema, { systemdCgroup: true }))?.systemdCgroup, true);
  assert.equal(optionsOf(packMessage(runtimeOptions.OptionsSchema, { configPath: "/x" })), undefined);
  assert.equal(optionsOf(undefined), undefined);
  assert.throws(() => optionsOf(packMessage(task.KillRequestSchema, {})), /KillRequest; berth's shim takes/);
});

test("one shim for a pod's containers, one for each other", () => {
  const bundle = mkdtempSync(join(tmpdir(), "berth-group-"));
  try {
    const group = (annotations?: Record<string, string>): string => {
      writeFileSync(join(bundle, "config.json"), JSON.stringify({ annotations }));
      return groupOf({ bundle, id: "own" });
    };
    assert.equal(group(), "own");
    assert.equal(group({ "io.kubernetes.cri.sandbox-id": "pod" }), "pod");
    assert.equal(group({ "io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "g" }), "g");
  } finally {
    rmSync(bundle, { recursive: true });
  }
});

test("sockets: of their own for each containerd, namespace and group, and short enough for an address", () => {
  const paths = [
    socketPath("/run/a", "k8s.io", "pod"),
    socketPath("/run/b", "k8s.io", "pod"),
    socketPath("/run/a", "default", "pod"),
    socketPath("/run/a", "k8s.io", "other"),
  ];
  assert.equal(new Set(paths).size, paths.length);
  const long = stateDir("/run/a".repeat(50), "n".repeat(100), "i".repeat(200));
  for (const path of [...paths, `${long}/monitor.sock`, `${handDir(paths[0] ?? "")}-delete/serve.sock`])
    assert.ok(path.length < 108, path);
});
