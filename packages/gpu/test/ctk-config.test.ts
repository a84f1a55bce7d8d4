/** berth-ctk's commands that change configuration. What they write is what nvidia-ctk 1.20 writes, but for what docs/compatibility.md lists. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { parse } from "smol-toml";
import { ctk } from "../src/ctk/program.ts";

async function run(...args: string[]) {
  const out = { status: 0, stdout: "", stderr: "" };
  const writer = (name: "stdout" | "stderr") => ({ write: (text: string) => void (out[name] += text) });
  out.status = await ctk(args, { stdout: writer("stdout"), stderr: writer("stderr"), stdin: process.stdin });
  return out;
}

function folder(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "berth-ctk-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** With ordinary prototypes. */
const parsed = (text: string): unknown => JSON.parse(JSON.stringify(parse(text)));

const DEFAULT_CLI = `
[nvidia-container-cli]
#debug = "/var/log/nvidia-container-toolkit.log"
environment = []
#ldcache = "/etc/ld.so.cache"
ldconfig = "@/sbin/ldconfig"
load-kmods = true
#no-cgroups = false
#path = "/usr/bin/nvidia-container-cli"
#root = "/run/nvidia/driver"
#user = "root:video"
`;

test("config: defaults, changed values, the file itself", async (t) => {
  const dir = folder(t);
  const { status, stdout } = await run("config", "default");
  assert.equal(status, 0);
  assert.ok(stdout.startsWith("#accept-nvidia-visible-devices-as-volume-mounts = false\n"));
  assert.ok(stdout.replace(/"@[^"]*"/, '"@/sbin/ldconfig"').includes(DEFAULT_CLI));
  const file = join(dir, "config.toml");
  const set = ["nvidia-container-runtime.runtimes=a:b", "disable-require", "features.disable-imex-channel-creation=1"];
  const flags = set.flatMap((option) => ["--set", option]);
  assert.equal((await run("config", "--config", file, "-o", file, ...flags)).status, 0);
  const written = parsed(readFileSync(file, "utf8")) as Record<string, Record<string, unknown>>;
  assert.deepEqual(written["nvidia-container-runtime"]?.["runtimes"], ["a", "b"]);
  assert.deepEqual(written["features"], { "disable-imex-channel-creation": true });
  // A file shows what it says, not all that could be said.
  writeFileSync(file, '[nvidia-ctk]\npath = "/x"\n[mine]\nkey = [1, "a"]\n');
  const off = "features.disable-imex-channel-creation=nil";
  await run("config", "-c", file, "-i", "--set", "nvidia-container-cli.user=root:x", "--set", off);
  const text = readFileSync(file, "utf8");
  assert.deepEqual(parsed(text), {
    mine: { key: [1, "a"] },
    "nvidia-container-cli": { user: "root:x" },
    "nvidia-container-runtime": {},
    "nvidia-ctk": { path: "/x" },
  });
  assert.match(text, /#root = "\/run\/nvidia\/driver"/);
});

test("config: what is no option is named", async () => {
  const bad: readonly (readonly [string[], RegExp])[] = [
    [["--set", "x.y=1"], /undefined field: "x.y"/],
    [["--set", "swarm-resource"], /invalid format: expected key=value; got swarm-resource/],
    [["--set", "disable-require=maybe"], /"maybe" is neither true nor false/],
    [["-i", "-o", "x"], /cannot specify both --in-place and --output/],
  ];
  for (const [flags, message] of bad) {
    const { status, stderr } = await run("config", ...flags);
    assert.equal(status, 1);
    assert.match(stderr, message);
  }
});

const NODE = `# mine
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = true
`;

test("runtime configure containerd: a drop-in file with the node's own options, and one line in the node's file", async (t) => {
  const dir = folder(t);
  const [file, dropIn] = [join(dir, "config.toml"), join(dir, "conf.d/99-nvidia.toml")];
  writeFileSync(file, NODE);
  const flags = ["--runtime", "containerd", "--config", file, "--drop-in-config", dropIn];
  const { status, stderr } = await run("runtime", "configure", ...flags, "--set-as-default", "--enable-cdi");
  assert.equal(status, 0, stderr);
  assert.equal(readFileSync(file, "utf8"), `imports = ["${dir}/conf.d/*.toml"]\n${NODE}`);
  const cri = '  [plugins."io.containerd.grpc.v1.cri"]\n    enable_cdi = true\n';
  const text = readFileSync(dropIn, "utf8");
  assert.ok(text.startsWith(`version = 2\n\n[plugins]\n\n${cri}`), text);
  const name = 'plugins."io.containerd.grpc.v1.cri".containerd';
  assert.ok(text.includes(`    [${name}]\n      default_runtime_name = "nvidia"\n`));
  const options = `          [${name}.runtimes.nvidia.options]\n`;
  const binary = '            BinaryName = "/usr/bin/nvidia-container-runtime"\n';
  assert.ok(text.includes(`${options}${binary}            SystemdCgroup = true\n`));
  // Again: nothing is there twice; no longer the default one.
  await run("runtime", "configure", ...flags);
  assert.equal(readFileSync(file, "utf8"), `imports = ["${dir}/conf.d/*.toml"]\n${NODE}`);
  assert.ok(readFileSync(dropIn, "utf8").includes('default_runtime_name = "runc"'));
});

test("runtime configure: versions 1 and 3, no file yet, berth, the engine's own file", async (t) => {
  const dir = folder(t);
  const file = join(dir, "config.toml");
  const dry = async (runtime: string, text: string | undefined, ...flags: string[]): Promise<string> => {
    rmSync(file, { force: true });
    if (text !== undefined) writeFileSync(file, text);
    const { status, stdout, stderr } = await run(
      "runtime",
      "configure",
      "--dry-run",
      "--runtime",
      runtime,
      "--config",
      file,
      ...flags,
    );
    assert.equal(status, 0, stderr);
    assert.equal(existsSync(file), text !== undefined);
    return stdout;
  };
  const third = await dry("containerd", 'version = 3\nimports = ["/a/*.toml"]\n', "--drop-in-config", "/b/x.toml");
  assert.ok(third.includes('[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia.options]'));
  assert.ok(third.includes('imports = ["/a/*.toml", "/b/*.toml"]\nversion = 3\n'));
  const first = await dry(
    "containerd",
    "[plugins.cri.containerd.runtimes.runc]\nruntime_type = 'x'\n",
    "--cdi.enabled",
  );
  assert.ok(first.includes('Runtime = "/usr/bin/nvidia-container-runtime"'));
  assert.ok(first.includes("enable_cdi = true") && first.includes("version = 1"));
  const none = await dry("containerd", undefined);
  assert.ok(none.endsWith('imports = ["/etc/containerd/conf.d/*.toml"]\nversion = 2\n\n'));
  assert.match(await dry("berth", undefined), /runtimes.nvidia.options\]\n +NvidiaRuntime = true\n/);
  assert.match(await dry("berth", undefined, "--nvidia-runtime-path", "/opt/x"), /BinaryName = "\/opt\/x"\n/);
  const whole = await dry(
    "containerd",
    NODE,
    "--drop-in-config",
    "",
    "--nvidia-runtime-name",
    "gpu",
    "--runtime-path",
    "/opt/x",
  );
  assert.ok(whole.includes('runtimes.gpu.options]\n            BinaryName = "/opt/x"') && !whole.includes("imports"));
});

test("runtime configure: CRI-O and docker", async (t) => {
  const dir = folder(t);
  const [crio, docker] = [join(dir, "crio.conf"), join(dir, "daemon.json")];
  writeFileSync(
    crio,
    '[crio.runtime]\ndefault_runtime = "crun"\n[crio.runtime.runtimes.crun]\nruntime_root = "/run/crun"\n',
  );
  const { stdout, stderr } = await run(
    "runtime",
    "configure",
    "--runtime",
    "crio",
    "--config",
    crio,
    "--dry-run",
    "--cdi.enabled",
  );
  const lines = ["runtime_path", "runtime_root", "runtime_type"].map((key) => new RegExp(`        ${key} = `));
  for (const line of lines) assert.match(stdout, line);
  assert.match(stderr, /Ignoring cdi.enabled flag for crio/);
  writeFileSync(docker, '{"runtimes":{"x":{"path":"/x"}},"debug":true}');
  await run("--quiet", "runtime", "configure", "--config", docker, "--set-as-default", "--cdi.enabled");
  assert.deepEqual(JSON.parse(readFileSync(docker, "utf8")), {
    debug: true,
    "default-runtime": "nvidia",
    features: { cdi: true },
    runtimes: { nvidia: { args: [], path: "nvidia-container-runtime" }, x: { path: "/x" } },
  });
});

test("runtime configure: what the engine says of its configuration counts, where it is asked", async (t) => {
  const dir = folder(t);
  const [file, dropIn, engine] = [join(dir, "config.toml"), join(dir, "conf.d/99-nvidia.toml"), join(dir, "engine")];
  const say = (text: string): void =>
    writeFileSync(
      engine,
      `#!/bin/sh\n[ "$*" = "config dump" ] || [ "$*" = "status config" ] || exit 1\ncat <<'END'\n${text}\nEND\n`,
      { mode: 0o755 },
    );
  const asked = [
    "--config",
    file,
    "--drop-in-config",
    dropIn,
    "--config-source",
    "command",
    "--executable-path",
    engine,
  ];
  writeFileSync(file, "version = 3\n");
  const told =
    'version = 3\n[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]\nSystemdCgroup = true';
  say(told);
  assert.equal(
    (await run("runtime", "configure", "--runtime", "containerd", ...asked)).stderr.includes("restarted"),
    true,
  );
  assert.match(readFileSync(dropIn, "utf8"), /runtimes\.nvidia\.options\]\n.*\n\s+SystemdCgroup = true/);
  assert.equal(readFileSync(file, "utf8"), `imports = ["${dir}/conf.d/*.toml"]\nversion = 3\n`);
  say('[crio.runtime]\ndefault_runtime = "crun"\n[crio.runtime.runtimes.crun]\nmonitor_path = "/x/conmon"');
  const crio = await run("runtime", "configure", "--runtime", "crio", ...asked);
  assert.equal(crio.status, 0, crio.stderr);
  assert.match(readFileSync(dropIn, "utf8"), /\[crio\.runtime\.runtimes\.nvidia\]\n\s+monitor_path = "\/x\/conmon"/);
  const docker = await run(
    "runtime",
    "configure",
    "--config",
    join(dir, "daemon.json"),
    "--config-source",
    "command",
    "--dry-run",
  );
  assert.match(docker.stderr, /warning: A command Config Source is not supported for docker; using file/);
});

test("runtime configure --config-mode oci-hook: a hook for podman's and CRI-O's directories", async (t) => {
  const file = join(folder(t), "hooks.d/oci-nvidia-hook.json");
  const path = "/opt/bin/nvidia-container-runtime-hook";
  const flags = ["--config-mode", "oci-hook", "--nvidia-runtime-hook-path", path];
  const { stdout, stderr } = await run("runtime", "configure", ...flags);
  assert.equal(stderr, 'warning: The "oci-hook" config-mode is deprecated\n');
  assert.deepEqual(JSON.parse(stdout), {
    version: "1.0.0",
    hook: {
      path,
      args: ["nvidia-container-runtime-hook", "prestart"],
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin"],
    },
    when: { always: true, commands: [".*"] },
    stages: ["prestart"],
  });
  await run("runtime", "configure", ...flags, "--oci-hook-path", file);
  assert.equal(readFileSync(file, "utf8"), stdout);
});

test("runtime configure: what is wrong is named, and nothing written", async (t) => {
  const dir = folder(t);
  const file = join(dir, "config.toml");
  writeFileSync(file, "version = [");
  const bad: readonly (readonly [string[], RegExp])[] = [
    [["--runtime", "podman"], /unrecognized runtime 'podman'/],
    [["--runtime", "containerd", "--config", file], /config.toml: Invalid TOML/],
    [["--runtime", "containerd", "--nvidia-runtime-path", "x"], /runtime path "x" is not an absolute path/],
    [["--runtime", "containerd", "--drop-in-config", "x"], /drop-in-config path "x" is not an absolute path/],
    [["--drop-in-config", "/x"], /runtime docker does not support drop-in configs/],
    [["--config-source", "x"], /unrecognized Config Source: x/],
    [["--runtime", "crio", "--config-source", "command", "--executable-path", "/no/crio"], /\/no\/crio/],
  ];
  for (const [flags, message] of bad) {
    const { status, stderr } = await run("runtime", "configure", ...flags);
    assert.equal(status, 1);
    assert.match(stderr, message);
  }
  assert.equal(readFileSync(file, "utf8"), "version = [");
});
