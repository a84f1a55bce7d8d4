import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { checkDocument, ConfigError, describe, readDocument } from "@berth/daemon";
import { filesOf } from "./files.ts";

const problemsOf = async (t: TestContext, text: string): Promise<string[]> => {
  const dir = filesOf(t, { "config.toml": text });
  return checkDocument(await readDocument(join(dir, "config.toml"))).map((problem) =>
    describe(problem).replace(`${dir}/`, ""),
  );
};

test("an unknown key is named with its line and the nearest known one", async (t) => {
  const text = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_imgae = "pause"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
    runtime_typ = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cry"]
  a = 1
  b = 2
`;
  assert.deepEqual(await problemsOf(t, text), [
    "config.toml:3: warning: plugins.'io.containerd.grpc.v1.cri'.sandbox_imgae: unknown key",
    "config.toml:5: warning: plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.crun.runtime_typ: unknown key; did you mean runtime_type?",
    "config.toml:7: warning: plugins.'io.containerd.grpc.v1.cry': unknown key; did you mean 'io.containerd.grpc.v1.cri'?",
  ]);
});

test("version 2's keys in a version 3 file are named with where they have gone", async (t) => {
  const text = `version = 3
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = true
`;
  assert.deepEqual(await problemsOf(t, text), [
    "config.toml:3: warning: plugins.'io.containerd.grpc.v1.cri'.sandbox_image: version 2's key, which later versions do not look at; it is now plugins.'io.containerd.cri.v1.images'.pinned_images.sandbox",
    "config.toml:5: warning: plugins.'io.containerd.grpc.v1.cri'.containerd: version 2's key, which later versions do not look at; it is now plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options.SystemdCgroup",
  ]);
});

test("a value of the wrong type is an error", async (t) => {
  const text = `version = 3
root = 7
[plugins.'io.containerd.cri.v1.runtime']
max_container_log_line_size = "16384"
enable_cdi = "true"
cdi_spec_dirs = "/etc/cdi"
drain_exec_sync_io_timeout = "soon"
`;
  assert.deepEqual(await problemsOf(t, text), [
    "config.toml:2: error: root: must be a string in quotes, not 7",
    "config.toml:4: error: plugins.'io.containerd.cri.v1.runtime'.max_container_log_line_size: must be a whole number, without quotes, not \"16384\"",
    "config.toml:5: error: plugins.'io.containerd.cri.v1.runtime'.enable_cdi: must be true or false, without quotes, not \"true\"",
    'config.toml:6: error: plugins.\'io.containerd.cri.v1.runtime\'.cdi_spec_dirs: must be a list of strings, such as ["a", "b"], not "/etc/cdi"',
    'config.toml:7: error: plugins.\'io.containerd.cri.v1.runtime\'.drain_exec_sync_io_timeout: must be a duration such as "10s" or "1h30m", not "soon"',
  ]);
});

test("what is not supported is named where it is asked for, and only there", async (t) => {
  const asked = await problemsOf(t, "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\nenable_selinux = true\n");
  assert.equal(asked.length, 1);
  assert.match(asked[0] ?? "", /^config\.toml:3: warning: .*enable_selinux = true is not supported: /);
  assert.deepEqual(
    await problemsOf(t, "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\nenable_selinux = false\n"),
    [],
  );
});

for (const version of ["1.6", "1.7", "2.0", "2.3"])
  test(`what containerd ${version} prints as its default asks for nothing that is missing`, async () => {
    const file = join(import.meta.dirname, `containerd-${version}.toml`);
    const found = checkDocument(await readDocument(file)).filter(({ severity }) => severity !== "note");
    assert.deepEqual(found.map(describe), []);
  });

test("SystemdCgroup of any handler is no problem", async (t) => {
  const table = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
  const text = `version = 3\n[${table}.runc.options]\nSystemdCgroup = true\n[${table}.nvidia.options]\nSystemdCgroup = true\n`;
  assert.deepEqual(await problemsOf(t, text), []);
});

test("a file that is not TOML is refused with its line", async (t) => {
  const dir = filesOf(t, { "config.toml": "version = 2\nroot = \n" });
  await assert.rejects(readDocument(join(dir, "config.toml")), (error: unknown) => {
    assert(error instanceof ConfigError);
    assert.match(error.message, /config\.toml:2: not TOML: /);
    return true;
  });
});
