/** The CDI hooks, run as a container runtime runs them: a state on standard input, a bundle, a root that may be booby-trapped. */
import assert from "node:assert/strict";
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, type TestContext, test } from "node:test";

const here = new URL("..", import.meta.url).pathname;
const HOOK = new URL("../../../.build/native/cdi-hook-asan", import.meta.url).pathname;
const ROOT = process.getuid?.() === 0 ? {} : { skip: "needs root" };

before(() => {
  for (const option of [[], ["--sanitize"]]) {
    const { status, stderr } = spawnSync(`${here}build-program`, ["hook", ...option], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
  }
});

interface Bundle {
  readonly dir: string;
  readonly root: string;
  readonly hook: (...args: string[]) => SpawnSyncReturns<string>;
}

function bundle(t: TestContext, config: object = { root: { path: "rootfs" } }): Bundle {
  const dir = mkdtempSync(join(tmpdir(), "berth-hook-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const root = join(dir, "rootfs");
  mkdirSync(join(root, "etc"), { recursive: true });
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
  return {
    dir,
    root,
    hook: (...args) => hook(args, { ociVersion: "1.0.2", id: "x", status: "creating", bundle: dir }),
  };
}

// The sanitizer's leak check needs ptrace, and this program leaves its few strings to the end of the process.
const env = { ...process.env, ASAN_OPTIONS: "detect_leaks=0" };
const hook = (args: readonly string[], state: unknown, argv0 = "nvidia-cdi-hook"): SpawnSyncReturns<string> =>
  spawnSync(HOOK, args, {
    argv0,
    input: typeof state === "string" ? state : JSON.stringify(state),
    encoding: "utf8",
    env,
  });

function succeeds({ status, stderr }: SpawnSyncReturns<string>): void {
  assert.equal(status, 0, stderr);
}

function fails({ status, stderr }: SpawnSyncReturns<string>, message: RegExp): void {
  assert.equal(status, 1, stderr);
  assert.match(stderr, message);
}

test("the root is the state's, else the bundle's, absolute or relative", (t) => {
  const { dir, root } = bundle(t, {
    hooks: { a: ['}"\\', { root: { path: "/no" } }] },
    root: { readonly: true, path: "root\\u0066s".replace("\\u0066", "f") },
  });
  const link = (name: string) => ["create-symlinks", "--link", `t::/${name}`];
  succeeds(hook(link("one"), { bundle: dir }));
  succeeds(hook(link("two"), { bundle: "/nowhere", root }));
  succeeds(hook(link("three"), { bundle: dir, root: "rootfs" }));
  succeeds(hook(link("four"), `{"bundle":"${dir.replaceAll("/", "\\u002f")}","annotations":{"bundle":"/x"}}`));
  assert.deepEqual(readdirSync(root).sort(), ["etc", "four", "one", "three", "two"]);
  const bad: readonly (readonly [unknown, RegExp])[] = [
    ["", /create-symlinks: failed to load container state: it names no bundle/],
    ["[]", /names no bundle/],
    ['{"bundle":"/tmp', /names no bundle/],
    [{ bundle: "/nowhere" }, /failed to open OCI spec file \/nowhere\/config\.json: No such file/],
    [{ bundle: dir, root: "/" }, /is \/, which is this system's own/],
    [{ bundle: dir, root: "gone" }, /failed to open the container's root .*gone: No such file/],
    ["[".repeat(100_000), /names no bundle/],
  ];
  for (const [state, message] of bad) fails(hook(link("five"), state), message);
  writeFileSync(join(dir, "config.json"), '{"process":{"root":{"path":"x"}}}');
  fails(hook(link("five"), { bundle: dir }), /config\.json: root\.path is missing/);
});

test("create-symlinks: new directories, existing links, links replaced", (t) => {
  const { root, hook: run } = bundle(t);
  succeeds(
    run(
      "create-symlinks",
      "--link",
      "../card0::/dev/dri/by-path/pci-0000:01:00.0-card",
      "--link=libcuda.so.1::/usr/lib/libcuda.so,a::/b",
    ),
  );
  assert.equal(readlinkSync(join(root, "dev/dri/by-path/pci-0000:01:00.0-card")), "../card0");
  assert.equal(readlinkSync(join(root, "usr/lib/libcuda.so")), "libcuda.so.1");
  assert.equal(readlinkSync(join(root, "b")), "a");
  assert.equal(statSync(join(root, "dev/dri")).mode & 0o777, 0o755);
  succeeds(run("create-symlinks", "--link", "c::/b", "--link", "c::/b"));
  assert.equal(readlinkSync(join(root, "b")), "c");
  writeFileSync(join(root, "file"), "");
  fails(run("create-symlinks", "--link", "c::/file"), /link \/file: failed to resolve what is there: Invalid argument/);
  fails(run("create-symlinks", "--link", "c"), /invalid symlink specification c/);
  fails(run("create-symlinks", "--link", "a::b::c"), /invalid symlink specification a::b::c/);
  fails(run("create-symlinks", "--link", "a::/etc/.."), /not a file's name/);
  assert.deepEqual(readdirSync(root).sort(), ["b", "dev", "etc", "file", "usr"]);
});

test("no hook leaves the root by a link that the image put there", ROOT, (t) => {
  const outside = mkdtempSync("/tmp/berth-hook-outside-");
  t.after(() => rmSync(outside, { recursive: true, force: true }));
  chmodSync(outside, 0o700);
  const { root, hook: run } = bundle(t);
  for (const [link, target] of [
    ["absolute", outside],
    ["climbing", `../../../../../../../..${outside}`],
  ] as const) {
    symlinkSync(target, join(root, link));
    fails(run("create-symlinks", "--link", `t::/${link}/sub/name`), /failed to create its directory: No such file/);
    mkdirSync(join(root, outside), { recursive: true });
    succeeds(run("create-symlinks", "--link", `t::/${link}/sub/name`));
    assert.equal(readlinkSync(join(root, outside, "sub/name")), "t");
    rmSync(join(root, outside, "sub"), { recursive: true });
    succeeds(run("chmod", "--mode", "777", "--path", `/${link}`));
    assert.equal(statSync(join(root, outside)).mode & 0o777, 0o777);
    rmSync(join(root, "tmp"), { recursive: true });
  }
  mkdirSync(join(root, outside), { recursive: true });
  rmSync(join(root, "etc"), { recursive: true });
  symlinkSync(outside, join(root, "etc"));
  mkdirSync(join(root, "usr/local/cuda/compat"), { recursive: true });
  writeFileSync(join(root, "usr/local/cuda/compat/libcuda.so.999.1"), "");
  succeeds(run("enable-cuda-compat", "--host-driver-version", "525.1"));
  succeeds(run("update-ldcache", "--folder", "/lib"));
  assert.ok(existsSync(join(root, outside, "ld.so.cache")));
  assert.deepEqual(readdirSync(outside), []);
  assert.equal(statSync(outside).mode & 0o777, 0o700);
});

test("chmod: what is there, and nothing else", (t) => {
  const { root, hook: run } = bundle(t);
  mkdirSync(join(root, "dev/dri"), { recursive: true, mode: 0o700 });
  succeeds(run("chmod", "--mode", "755", "--path", "/dev/dri", "--path", "/dev/none"));
  assert.equal(statSync(join(root, "dev/dri")).mode & 0o777, 0o755);
  fails(run("chmod", "--path", "/dev"), /--mode "": not an octal mode/);
  fails(run("chmod", "--mode", "9", "--path", "/dev"), /--mode "9": not an octal mode/);
  fails(run("chmod", "--mode", "755", "--path", ""), /--path: must not be empty/);
});

test("update-application-profile: a bit for each GPU in the container's /dev", ROOT, (t) => {
  const { root, hook: run } = bundle(t);
  const profile = join(root, "etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf");
  succeeds(run("update-application-profile"));
  assert.ok(!existsSync(profile), "no /dev");
  mkdirSync(join(root, "dev"));
  const node = (name: string, type: string, ...numbers: string[]) =>
    assert.equal(spawnSync("mknod", [join(root, "dev", name), type, ...numbers]).status, 0);
  for (const name of ["nvidiactl", "nvidia-uvm", "nvidia", "nvidia1x"]) node(name, "c", "195", "9");
  writeFileSync(join(root, "dev/nvidia3"), "");
  succeeds(run("update-application-profile"));
  assert.ok(!existsSync(profile), "no GPU");
  node("nvidia0", "c", "195", "0");
  node("nvidia5", "c", "195", "5");
  node("nvidia80", "c", "195", "80");
  const { status, stderr } = run("update-application-profile");
  assert.equal(status, 0, stderr);
  assert.match(stderr, /warning: .*\/dev\/nvidia80: no profile can name/);
  const text = '{"profiles":[{"name":"_container_","settings":["EGLVisibleDGPUDevices",0x21]}],';
  assert.equal(readFileSync(profile, "utf8"), `${text}"rules":[{"pattern":[],"profile":"_container_"}]}`);
  assert.equal(statSync(profile).mode & 0o777, 0o444);
  rmSync(profile);
  spawnSync("mkfifo", [profile]);
  fails(run("update-application-profile"), /failed to write the container's .*10-container\.conf/);
});

function library(root: string, path: string, soname: string, more: readonly string[] = []): void {
  mkdirSync(join(root, path, ".."), { recursive: true });
  const { status, stderr } = spawnSync(
    "gcc",
    ["-shared", "-nostdlib", "-x", "c", "/dev/null", ...more, "-o", join(root, path), `-Wl,-soname,${soname}`],
    { encoding: "utf8" },
  );
  assert.equal(status, 0, stderr);
}

const dropIns = (root: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(join(root, "etc/ld.so.conf.d")).map((name) => [
      name.replace(/[0-9a-f]{32}/, "*"),
      readFileSync(join(root, "etc/ld.so.conf.d", name), "utf8"),
    ]),
  );

test("update-ldcache: the container's cache has the folders first, and nothing is left of the way there", ROOT, (t) => {
  const { root, hook: run } = bundle(t);
  library(root, "opt/driver/libcuda.so.525.1", "libcuda.so.1");
  library(root, "usr/lib/libother.so.2", "libother.so.2");
  writeFileSync(join(root, "etc/debian_version"), "12\n");
  succeeds(run("update-ldcache", "--folder", "/opt/driver", "--folder", "/usr/lib,/opt/driver"));
  assert.equal(readFileSync(join(root, "etc/ld.so.conf"), "utf8"), "include /etc/ld.so.conf.d/*.conf\n");
  const { "00-nvcr-*.conf": own, "zz-nvcr-*.conf": system, ...others } = dropIns(root);
  assert.equal(own, "/opt/driver\n");
  assert.match(system ?? "", /^\/lib\/\w+-linux-gnu\n\/usr\/lib\/\w+-linux-gnu\n\/lib\n\/usr\/lib\n$/);
  assert.deepEqual(others, {});
  const cache = spawnSync("ldconfig", ["-p", "-C", join(root, "etc/ld.so.cache")], { encoding: "utf8" }).stdout;
  assert.match(cache, /libcuda\.so\.1 \(libc6.*\) => \/opt\/driver\/libcuda\.so\.1\n/);
  assert.match(cache, /libother\.so\.2 \(libc6.*\) => \/usr\/lib\/libother\.so\.2\n/);
  assert.equal(readlinkSync(join(root, "opt/driver/libcuda.so.1")), "libcuda.so.525.1");
  assert.deepEqual(readdirSync(root).sort(), ["etc", "opt", "usr"]);
});

test("update-ldcache: folders that are configured already, Alpine's path file, what fails", ROOT, (t) => {
  const { dir, root, hook: run } = bundle(t);
  mkdirSync(join(root, "etc/more"));
  writeFileSync(join(root, "etc/ld.so.conf"), "# mine\n  /opt/a  \ninclude /etc/more/*\ninclude /etc/ld.so.conf\n");
  writeFileSync(join(root, "etc/more/x"), "/opt/b\n");
  spawnSync("mkfifo", [join(root, "etc/more/y")]);
  writeFileSync(join(root, "etc/alpine-release"), "");
  // ldconfig itself opens the FIFO, so that a false one stands in its place.
  const fake = join(dir, "ldconfig");
  assert.equal(
    spawnSync("gcc", ["-static", "-x", "c", "-", "-o", fake], {
      input: "int main(int c, char **v) { return c == 5 && v[0][0] == 'l' && !getenv(\"PATH\") ? 0 : 9; }",
      stdio: ["pipe", "ignore", "ignore"],
    }).status ?? 1,
    0,
  );
  succeeds(
    run("update-ldcache", "--ldconfig-path", fake, "--folder", "/opt/a", "--folder", "/opt/b", "--folder", "/opt/c"),
  );
  assert.equal(dropIns(root)["00-nvcr-*.conf"], "/opt/c\n");
  const [path] = readdirSync(join(root, "etc")).filter((name) => /^ld-musl-\w+\.path$/.test(name));
  assert.match(readFileSync(join(root, "etc", path ?? ""), "utf8"), /^\/opt\/c\n\/lib\n\/usr\/lib\n/);
  fails(
    run("update-ldcache", "--ldconfig-path", "/no/ldconfig"),
    /error reading host ldconfig \/no\/ldconfig: No such file/,
  );
  fails(run("update-ldcache", "--ldconfig-path", ""), /--ldconfig-path: must not be empty/);
  const broken = join(dir, "broken");
  writeFileSync(broken, "#!/bin/false\n");
  fails(run("update-ldcache", "--ldconfig-path", broken), /ldconfig ended with status 127/);
});

const NOTE = '{"Format":1,"CUDA Version":"12.4","Driver":[450, 525, 535],"Device":[1,3]}';
const noteSource = (owner: string): string => `
asm(".section .note.cuda.fwd_compatibility,\\"a\\",@note\\n.balign 4\\n.long 2f-1f\\n.long 4f-3f\\n.long 1\\n"
    "1:.asciz \\"${owner}\\"\\n2:.balign 4\\n3:.ascii \\"${NOTE.replaceAll('"', String.raw`\\\"`)}\\"\\n4:.balign 4\\n.previous");`;

test("enable-cuda-compat: by the library's note, else by the major version", (t) => {
  const { root, hook: run } = bundle(t);
  const COMPAT = "usr/local/cuda/compat";
  const enabled = (...args: string[]): boolean => {
    rmSync(join(root, "etc/ld.so.conf.d"), { recursive: true, force: true });
    succeeds(run("enable-cuda-compat", ...args));
    if (!existsSync(join(root, "etc/ld.so.conf.d"))) return false;
    assert.deepEqual(dropIns(root), { "00-compat-*.conf": `/${COMPAT}\n` });
    return true;
  };
  const [driver, cuda] = ["--host-driver-version", "--host-cuda-version"];
  assert.ok(!enabled(driver, "525.60"), "no directory");
  library(root, `${COMPAT}/libcuda.so.550.54.15`, "libcuda.so.1");
  assert.ok(enabled(driver, "525.147.05"));
  assert.ok(!enabled(driver, "550.1"), "not a higher major version");
  assert.ok(!enabled(driver, "525.60", cuda, "12.0"), "a host that knows its CUDA version wants a note");
  assert.ok(!enabled());
  const source = join(root, "note.c");
  writeFileSync(source, noteSource("NVIDIA Corporation"));
  library(root, `${COMPAT}/libcuda.so.550.54.15`, "libcuda.so.1", ["-x", "c", source]);
  assert.ok(enabled(driver, "525.60", cuda, "12.0"));
  assert.ok(!enabled(driver, "530.1"), "not in the note's list");
  assert.ok(!enabled(driver, "535.999", "--cuda-compat-container-root", "/opt/none"), "not there");
  assert.ok(enabled(cuda, "12.3"));
  assert.ok(!enabled(cuda, "12.4"));
  writeFileSync(source, noteSource("Somebody"));
  library(root, `${COMPAT}/libcuda.so.550.54.15`, "libcuda.so.1", ["-x", "c", source]);
  assert.ok(!enabled(cuda, "12.3"));
  library(root, `${COMPAT}/libcuda.so.560.1`, "libcuda.so.1");
  assert.ok(!enabled(driver, "525.60"), "two libraries");
  rmSync(join(root, COMPAT), { recursive: true });
  mkdirSync(join(root, COMPAT), { recursive: true });
  writeFileSync(join(root, COMPAT, "libcuda.so.560.1"), "\x7fELF no more");
  assert.ok(enabled(driver, "525.60"), "no note can be read of what is no library");
});

test("disable-device-node-modification: the container's view of the driver's parameters says no", ROOT, (t) => {
  const { dir, root } = bundle(t);
  const params = join(root, "proc/driver/nvidia/params");
  mkdirSync(join(params, ".."), { recursive: true });
  writeFileSync(params, "of the image");
  const state = JSON.stringify({ bundle: dir });
  const inNamespace = (text: string, after: string): string => {
    const script = `mount -t tmpfs none /proc/driver && mkdir /proc/driver/nvidia && printf '${text}' >/proc/driver/nvidia/params &&
      mount --bind ${root} ${root} && echo '${state}' | ${HOOK} disable-device-node-modification && ${after}`;
    const { status, stdout, stderr } = spawnSync("unshare", ["-m", "sh", "-c", script], { encoding: "utf8", env });
    assert.equal(status, 0, stderr);
    return stdout;
  };
  const text = "ResmanDebugLevel: 4294967295\\nModifyDeviceFiles: 1\\nDeviceFileUID: 0\\n";
  assert.equal(
    inNamespace(text, `cat ${params}; ! echo x >${params}`),
    "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\nDeviceFileUID: 0\n",
  );
  assert.equal(inNamespace("ModifyDeviceFiles: 0\\n", `cat ${params}`), "of the image");
  assert.equal(inNamespace("ModifyDeviceFiles: 11\\n", `cat ${params}`), "of the image");
  // Of the way there nothing is left, in the root or among its mounts.
  const left = inNamespace(text, `ls ${root}/run; grep -c ' ${root}' /proc/self/mounts`);
  assert.equal(left, "2\n");
  succeeds(hook(["disable-device-node-modification"], state));
});

test("names, flags, and hooks that are not known here", (t) => {
  const { dir, root } = bundle(t);
  const state = { bundle: dir };
  succeeds(hook(["hook", "create-symlinks", "--link", "a::/x"], state, "/usr/bin/nvidia-ctk"));
  succeeds(hook(["--debug", "hook", "create-symlinks", "--link", "a::/y"], state, "nvidia-ctk"));
  succeeds(hook(["--quiet", "create-symlinks", "--link", "a::/z"], state));
  assert.ok(["x", "y", "z"].every((name) => lstatSync(join(root, name)).isSymbolicLink()));
  const unknown = hook(["update-something-newer", "--x", "1"], state);
  assert.deepEqual(
    [unknown.status, unknown.stderr],
    [0, "warning: cdi-hook: unsupported CDI hook: update-something-newer\n"],
  );
  assert.equal(hook([], state).status, 0);
  fails(hook(["chmod", "--foo", "1"], state), /chmod: --foo: no such flag/);
  fails(hook(["chmod", "--mode"], state), /chmod: --mode: needs a value/);
  const other = hook(["cdi", "list"], state, "nvidia-ctk");
  assert.deepEqual([other.status, /berth-ctk, which has every command but "hook"/.test(other.stderr)], [127, true]);
});

const RELEASE = HOOK.replace(/-asan$/, "");

function whyNot(runtime: string): string | undefined {
  if (ROOT.skip) return ROOT.skip;
  if (spawnSync(runtime, ["--version"]).status !== 0) return `${runtime} is not installed`;
  return runtime === "crun" && existsSync("/sys/fs/cgroup/unified") ? "crun refuses hybrid cgroups" : undefined;
}

for (const runtime of ["runc", "crun"]) {
  const skip = whyNot(runtime);
  test(`under ${runtime}, as createContainer hooks`, skip === undefined ? {} : { skip }, (t) => {
    const { dir, root } = bundle(t);
    for (const folder of ["bin", "dev", "proc", "tmp", "opt/driver"])
      mkdirSync(join(root, folder), { recursive: true });
    library(root, "opt/driver/libcuda.so.525.1", "libcuda.so.1");
    assert.equal(spawnSync("sh", ["-c", `cp "$(command -v busybox)" ${root}/bin/sh`]).status, 0);
    const hooks = [
      ["create-symlinks", "--link", "libcuda.so.525.1::/opt/driver/libcuda.so"],
      ["enable-cuda-compat", "--host-driver-version=525.1"],
      ["update-ldcache", "--folder", "/opt/driver"],
      ["chmod", "--mode", "755", "--path", "/tmp"],
      ["disable-device-node-modification"],
    ].map((args) => ({ path: RELEASE, args: ["nvidia-ctk", "hook", ...args] }));
    const script = "ls -l /opt/driver; grep -c libcuda.so.1 /etc/ld.so.cache";
    for (const name of ["ls", "grep"]) symlinkSync("sh", join(root, "bin", name));
    const mounts = [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs" },
    ];
    const config = {
      ociVersion: "1.0.2",
      process: { user: { uid: 0, gid: 0 }, cwd: "/", args: ["/bin/sh", "-c", script], env: ["PATH=/bin"] },
      root: { path: "rootfs" },
      mounts,
      hooks: { createContainer: hooks },
      linux: { namespaces: ["pid", "mount", "ipc", "uts"].map((type) => ({ type })) },
    };
    writeFileSync(join(dir, "config.json"), JSON.stringify(config));
    const state = join(dir, "state");
    const args = ["--root", state, "run", "--bundle", dir, `hook-${process.pid}`];
    const { status, stdout, stderr } = spawnSync(runtime, args, { encoding: "utf8" });
    assert.equal(status, 0, stderr);
    assert.match(stdout, /libcuda\.so -> libcuda\.so\.525\.1/);
    assert.match(stdout, /libcuda\.so\.1 -> libcuda\.so\.525\.1/);
    assert.match(stdout, /^1$/m);
  });
}
