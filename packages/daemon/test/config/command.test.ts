/** `berthd config`, as a process: what scripts see. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { parse } from "smol-toml";
import { filesOf } from "./files.ts";

const main = fileURLToPath(new URL("../../src/main.ts", import.meta.url));
const berthd = (...args: string[]) =>
  spawnSync(process.execPath, ["--disable-warning=ExperimentalWarning", main, ...args], { encoding: "utf8" });
const sed = (file: string, script: string) => spawnSync("sed", ["-i", script, file], { encoding: "utf8" });

/** Lines that installation guides for Kubernetes nodes have. */
const GUIDES: readonly (readonly [version: string, script: string, key: string, value: unknown])[] = [
  ["2", "s/SystemdCgroup = false/SystemdCgroup = true/", "containerd.runtimes.runc.options.SystemdCgroup", true],
  [
    "2",
    's#sandbox_image = ".*"#sandbox_image = "registry.example/pause:3.9"#',
    "sandbox_image",
    "registry.example/pause:3.9",
  ],
  [
    "2",
    's|config_path = ""|config_path = "/etc/containerd/certs.d"|',
    "registry.config_path",
    "/etc/containerd/certs.d",
  ],
  [
    "2",
    "s/^\\( *\\)SystemdCgroup = false/\\1SystemdCgroup = true/g",
    "containerd.runtimes.runc.options.SystemdCgroup",
    true,
  ],
  ["3", "s/SystemdCgroup = false/SystemdCgroup = true/", "containerd.runtimes.runc.options.SystemdCgroup", true],
  ["3", "s/enable_cdi = true/enable_cdi = false/", "enable_cdi", false],
];

for (const [version, script, key, value] of GUIDES) {
  test(`a guide's sed line works on the default file, version ${version}: ${script}`, (t) => {
    const file = join(
      filesOf(t, { "config.toml": berthd("config", "default", "--version", version).stdout }),
      "config.toml",
    );
    sed(file, script);
    const plugin = version === "2" ? "io.containerd.grpc.v1.cri" : "io.containerd.cri.v1.runtime";
    const root = parse(readFileSync(file, "utf8")) as { plugins: Record<string, unknown> };
    const found = key
      .split(".")
      .reduce<unknown>((table, name) => (table as Record<string, unknown>)[name], root.plugins[plugin]);
    assert.equal(found, value);
    assert.equal(berthd("-c", file, "config", "check").status, 0);
  });
}

for (const version of ["2", "3", "4"]) {
  test(`the default file, version ${version}, says what holds without one: it changes nothing and raises nothing`, (t) => {
    const file = join(
      filesOf(t, { "config.toml": berthd("config", "default", "--version", version).stdout }),
      "config.toml",
    );
    const checked = berthd("-c", file, "config", "check", "--strict");
    assert.equal(checked.stdout, `${file}: every setting is in force\n`);
    assert.equal(checked.status, 0);
    assert.equal(berthd("-c", file, "config", "dump").stdout, berthd("config", "default").stdout);
  });
}

test("dump shows the file over the defaults, migrate the file alone in another version", (t) => {
  const dir = filesOf(t, {
    "config.toml": `version = 2\nimports = ["more.toml"]\n[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "pause:1"\n`,
    "more.toml": `version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]\nBinaryName = "crun"\n`,
  });
  const file = join(dir, "config.toml");
  assert.deepEqual(structuredClone(parse(berthd("-c", file, "config", "migrate").stdout)), {
    version: 3,
    plugins: {
      "io.containerd.cri.v1.images": { pinned_images: { sandbox: "pause:1" } },
      "io.containerd.cri.v1.runtime": { containerd: { runtimes: { crun: { options: { BinaryName: "crun" } } } } },
    },
  });
  writeFileSync(
    file,
    'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]\nsandbox_mode = "shim"\n',
  );
  assert.match(berthd("-c", file, "config", "migrate").stdout, /^ *sandboxer = 'shim'$/m);
  assert.match(berthd("-c", file, "config", "migrate", "--version", "2").stdout, /^ *sandbox_mode = "shim"$/m);
});

test("dump in the shape of version 2", (t) => {
  const text = `version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "pause:1"\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]\nBinaryName = "crun"\n`;
  const file = join(filesOf(t, { "config.toml": text }), "config.toml");
  const { stdout } = berthd("-c", file, "config", "dump", "--version", "2");
  assert.match(stdout, /^ {4}sandbox_image = "pause:1"$/m);
  assert.match(stdout, /^ {12}BinaryName = "crun"$/m);
  assert.match(stdout, /^ {4}max_container_log_line_size = 16384$/m);
});

test("check fails on an error always, on a warning where it is asked to", (t) => {
  const dir = filesOf(t, {
    "warning.toml": "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\nenable_selinux = true\n",
    "error.toml": "version = 3\nroot = 1\n",
  });
  const warned = berthd("-c", join(dir, "warning.toml"), "config", "check");
  assert.equal(warned.status, 0);
  assert.match(warned.stdout, /warning\.toml: 1 of what is asked for is not in force/);
  assert.equal(berthd("-c", join(dir, "warning.toml"), "config", "check", "--strict").status, 1);
  assert.equal(berthd("-c", join(dir, "error.toml"), "config", "check").status, 1);
  const missing = berthd("-c", join(dir, "missing.toml"), "config", "check");
  assert.equal(missing.status, 1);
  assert.match(missing.stderr, /^berthd: cannot read .*missing\.toml: ENOENT$/m);
});
