/** berth-ctk, on a driver root and an NVML that are made up. The golden file is what nvidia-ctk 1.20 prints for them, but for what docs/compatibility.md lists. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { parseCdiSpec } from "@berth/cdi";
import { withRoot } from "../src/generate/root.ts";
import { makeDriverRoot } from "../src/testing/driver-root.ts";

const CTK = new URL("../../../bin/berth-ctk", import.meta.url).pathname;
const GPUS = `driver 525.147.05
gpu GPU-11111111-2222-3333-4444-555555555555 0 00000000:01:00.0 0 NVIDIA A100
gpu GPU-66666666-2222-3333-4444-555555555555 1 00000000:02:00.0 0 NVIDIA A100
`;
const MIG = GPUS.replace("02:00.0 0", "02:00.0 1") + "mig MIG-aaaaaaaa-2222-3333-4444-555555555555 1 0\n";
const HOOK = ["--nvidia-cdi-hook-path", "/usr/bin/nvidia-cdi-hook"];
/** What the kernel and the driver say of the GPUs, in a mount namespace of the test's own. */
const PREPARE = `mount -t tmpfs none /sys/bus/pci/devices && mount -t tmpfs none /proc/driver &&
mkdir -p /sys/bus/pci/devices/0000:01:00.0/drm/card0 /sys/bus/pci/devices/0000:01:00.0/drm/renderD128 /proc/driver/nvidia-caps &&
printf 'gpu1/gi1/access 3\\ngpu1/gi1/ci0/access 4\\n' >/proc/driver/nvidia-caps/mig-minors && exec "$@"`;

describe("berth-ctk", { skip: process.getuid?.() === 0 ? false : "needs root, for device nodes and mounts" }, () => {
  let root = "";
  before(() => {
    root = mkdtempSync(join(tmpdir(), "berth-driver-"));
    makeDriverRoot(root);
  });
  after(() => rmSync(root, { recursive: true, force: true }));

  const generate = (script: string, ...flags: string[]) => {
    writeFileSync(join(root, "nvml.txt"), script);
    const args = ["-m", "sh", "-c", PREPARE, "sh", CTK, "cdi", "generate", "--driver-root", root, ...HOOK, ...flags];
    return spawnSync("unshare", args, { encoding: "utf8", env: environment() });
  };
  const environment = (more: object = {}) => ({ ...process.env, FAKE_NVML: join(root, "nvml.txt"), ...more });
  const generated = (script: string, ...flags: string[]) => {
    const { status, stdout, stderr } = generate(script, ...flags);
    assert.equal(status, 0, stderr);
    return stdout;
  };

  test("cdi generate: GPUs, driver files and hooks, as the reference's", () => {
    const golden = readFileSync(new URL("golden/generate.txt", import.meta.url), "utf8");
    assert.equal(generated(GPUS).replaceAll(root, "@ROOT@"), golden);
  });

  test("cdi generate: names, kind, hooks, format and a file", () => {
    const file = join(root, "out.json");
    const flags = [
      "--device-name-strategy",
      "type-index",
      "--no-all-device",
      "--disable-hook",
      "create-symlinks,enable-cuda-compat",
    ];
    const more = [
      "--vendor",
      "acme.com",
      "--class",
      "gpus",
      "--nvidia-cdi-hook-path",
      "/opt/nvidia-ctk",
      "--ldconfig-path",
      "/x/ldconfig",
    ];
    assert.equal(generated(GPUS, ...flags, ...more, "--output", file), "");
    const spec = parseCdiSpec(readFileSync(file, "utf8"), file);
    assert.equal(spec.kind, "acme.com/gpus");
    assert.deepEqual(
      spec.devices.map(({ name }) => name),
      ["gpu0", "gpu1"],
    );
    const args = spec.containerEdits?.hooks?.map((hook) => hook.args);
    const lib = "/usr/lib/x86_64-linux-gnu";
    assert.deepEqual(args, [
      [
        "nvidia-ctk",
        "hook",
        "update-ldcache",
        "--ldconfig-path",
        "/x/ldconfig",
        "--folder",
        lib,
        "--folder",
        `${lib}/vdpau`,
      ],
      ["nvidia-ctk", "hook", "disable-device-node-modification"],
      ["nvidia-ctk", "hook", "update-application-profile"],
    ]);
    assert.equal(
      parseCdiSpec(generated(GPUS, "--disable-hook", "all", "--format", "json")).containerEdits?.hooks,
      undefined,
    );
  });

  test("cdi generate: a GPU that is divided is there by its MIG devices", () => {
    const spec = parseCdiSpec(generated(MIG));
    const uuid = "MIG-aaaaaaaa-2222-3333-4444-555555555555";
    assert.deepEqual(
      spec.devices.map(({ name }) => name),
      ["0", "1:0", "GPU-11111111-2222-3333-4444-555555555555", uuid, "all"],
    );
    for (const name of ["1:0", uuid]) {
      const device = spec.devices.find((one) => one.name === name);
      assert.deepEqual(
        device?.containerEdits.deviceNodes?.map(({ path, minor }) => [path, minor]),
        [
          ["/dev/nvidia1", 5],
          ["/dev/nvidia-caps/nvidia-cap3", 3],
          ["/dev/nvidia-caps/nvidia-cap4", 4],
        ],
      );
    }
  });

  test("cdi generate: chosen devices, none, and all nodes for who manages them", () => {
    const names = (...flags: string[]) => parseCdiSpec(generated(MIG, ...flags)).devices.map(({ name }) => name);
    const uuid = "GPU-66666666-2222-3333-4444-555555555555";
    assert.deepEqual(names("--device-id", "0", "--device-name-strategy", "index"), ["0", "all"]);
    assert.deepEqual(names("--device-id", `1:0,${uuid}`, "--device-name-strategy", "index"), ["1", "1:0", "all"]);
    const none = parseCdiSpec(generated(MIG, "--device-id", "none"));
    assert.deepEqual(none.devices, [{ name: "none", containerEdits: { env: ["NVCT_EMPTY_DEVICE="] } }]);
    const management = parseCdiSpec(generated(MIG, "--mode", "management", "--vendor", "management.nvidia.com"));
    assert.equal(management.kind, "management.nvidia.com/gpu");
    assert.deepEqual(
      management.devices.map(({ name, containerEdits }) => [name, containerEdits.deviceNodes?.length]),
      [["all", 8]],
    );
    const text = JSON.stringify(management);
    assert.ok(!/egl|vulkan|xorg|disable-device-node-modification/.test(text) && text.includes("nvidia-smi"), text);
  });

  test("cdi generate: what fails says what", () => {
    const fails = (message: RegExp, script: string, ...flags: string[]) => {
      const { status, stdout, stderr } = generate(script, ...flags);
      assert.deepEqual([status, stdout], [1, ""], stderr);
      assert.match(stderr, message);
    };
    fails(/berth-ctk: NVML knows no GPU/, "driver 525.147.05\n");
    fails(/berth-ctk: nvmlInit_v2: Unknown Error \(999\)/, `fail nvmlInit_v2 999\n${GPUS}`);
    fails(/berth-ctk: nvmlDeviceGetUUID: Unknown Error \(15\)/, `fail nvmlDeviceGetUUID 15\n${GPUS}`);
    fails(/no library of driver version 999\.1 below .*: is the driver there\?/, GPUS.replace("525.147.05", "999.1"));
    fails(/mig-minors has no gpu1\/gi9\/access/, MIG.replace(" 1 0\n", " 9 0\n").replace("mig MIG", "mig MIG"));
    fails(/--device-id 7: NVML knows no GPU or MIG device/, GPUS, "--device-id", "7");
    fails(/no NVIDIA device nodes found below \/nowhere/, GPUS, "--mode", "management", "--dev-root", "/nowhere");
    fails(/no \/usr\/lib\/wsl\/drivers\/\*\/libcuda.so.1.1 below/, GPUS, "--mode", "wsl");
    fails(/--feature-flag x: berth has no such feature/, GPUS, "--feature-flag", "x");
    const [one] = GPUS.split(/^(?=gpu GPU-6)/m);
    const only = /unsupported device id "1": the GPU of this machine is 0, or all/;
    fails(only, one ?? "", "--mode", "csv", "--device-id", "1");
    fails(/invalid channel id "x": it must be a number/, GPUS, "--mode", "imex", "--device-id", "x");
    fails(/no IMEX channel 9: .* is not there/, GPUS, "--mode", "imex", "--device-id", "channel9");
    fails(/invalid discovery mode: x/, GPUS, "--mode", "x");
    fails(/invalid device name strategy: x/, GPUS, "--device-name-strategy", "x");
  });

  test("other names of flags, flags behind commands, and the roots and programs that configuration and PATH say", () => {
    const config = join(root, "toolkit.toml");
    writeFileSync(config, `[nvidia-container-cli]\nroot = "${root}"\n`);
    writeFileSync(join(root, "nvml.txt"), GPUS);
    mkdirSync(join(root, "path"));
    for (const name of ["nvidia-cdi-hook", "nvidia-ctk"]) writeFileSync(join(root, "path", name), "", { mode: 0o755 });
    const run = (more: object, ...args: string[]) =>
      spawnSync(CTK, args, {
        encoding: "utf8",
        env: environment({ PATH: `${process.env["PATH"]}:${root}/path`, ...more }),
      });
    const other = run(
      {},
      ...`--config ${config} cdi generate --discovery-mode NVML --feature-flags=disable-ipc-discoverer`.split(" "),
      ..."--cdi-vendor=v.com --cdi-class c --disable-hooks update-ldcache --devices 0 --quiet".split(" "),
    );
    assert.deepEqual([other.status, other.stderr], [0, ""]);
    const spec = parseCdiSpec(other.stdout);
    assert.deepEqual([spec.kind, spec.devices.length], ["v.com/c", 3]);
    const hooks = spec.containerEdits?.hooks ?? [];
    assert.deepEqual([...new Set(hooks.map(({ path }) => path))], [join(root, "path/nvidia-cdi-hook")]);
    assert.ok(!hooks.some(({ args = [] }) => args.includes("update-ldcache")));
    assert.ok(!other.stdout.includes("persistenced/socket"));
    const later = run(
      { NVIDIA_CTK_QUIET: "1" },
      "cdi",
      "generate",
      "--config",
      config,
      "--nvidia-ctk-path",
      "nvidia-ctk",
    );
    assert.deepEqual([later.status, later.stderr], [0, ""]);
    assert.equal(parseCdiSpec(later.stdout).containerEdits?.hooks?.[0]?.path, join(root, "path/nvidia-ctk"));
    const own = run({ PATH: process.env["PATH"] }, "cdi", "generate", "--config", config);
    assert.match(
      parseCdiSpec(own.stdout).containerEdits?.hooks?.[0]?.path ?? "",
      /\/nvidia-cdi-hook$|\.build\/native\/cdi-hook$/,
    );
    assert.equal(run({}, "--version").stdout, "NVIDIA Container Toolkit CLI version berth 0.1.0\n");
    assert.deepEqual([run({}, "info").status, run({}, "info").stdout], [0, ""]);
    const refused = run({}, "cdi", "generate", "--enable-hook", "all");
    assert.deepEqual([refused.status, refused.stderr], [1, "berth-ctk: enabling all hooks is not supported\n"]);
    const odd = run({}, "--config", config, "cdi", "generate", "--format", "JSON", "--output", join(root, "odd.yaml"));
    assert.match(
      odd.stderr,
      /Requested output format "json" does not match format implied by output file name: "yaml"/,
    );
    assert.equal((JSON.parse(readFileSync(join(root, "odd.yaml"), "utf8")) as { kind: string }).kind, "nvidia.com/gpu");
    const flags = ["--feature-flag", "enable-coherent-annotations", "--output", join(root, "gpus.yaml")];
    assert.equal(run({}, "--config", config, "cdi", "generate", ...flags).status, 0);
    assert.equal(
      parseCdiSpec(readFileSync(join(root, "gpus.noncoherent.yaml"), "utf8")).kind,
      "nvidia.com/gpu.noncoherent",
    );
  });

  test("system create-device-nodes: modules by the root's own modprobe, and the nodes that all GPUs share", (t) => {
    const busybox = spawnSync("sh", ["-c", "command -v busybox"], { encoding: "utf8" }).stdout.trim();
    if (busybox === "") return t.skip("busybox is not installed");
    const machine = join(root, "machine");
    for (const dir of ["dev", "sbin", "bin"]) mkdirSync(join(machine, dir), { recursive: true });
    copyFileSync(busybox, join(machine, "bin/sh"));
    writeFileSync(join(machine, "sbin/modprobe"), '#!/bin/sh\necho "$@" >>/loaded\n[ "$1" != fails ]\n', {
      mode: 0o755,
    });
    const devices = join(root, "devices");
    const run = (drivers: string, ...flags: string[]) => {
      writeFileSync(devices, `Character devices:\n  1 mem\n${drivers}\nBlock devices:\n  8 sd\n`);
      const script = 'mount --bind "$1" /proc/devices && shift && exec "$@"';
      return spawnSync("unshare", ["-m", "sh", "-c", script, "sh", devices, CTK, "system", ...flags], {
        encoding: "utf8",
      });
    };
    const nodes = ["create-device-nodes", "--driver-root", machine, "--control-devices"];
    const drivers = "195 nvidia\n234 nvidia-caps\n508 nvidia-uvm";
    const dry = run(drivers, ...nodes, "--load-kernel-modules", "--dry-run");
    assert.deepEqual(
      [dry.status, dry.stderr.trimEnd().split("\n")],
      [
        0,
        [
          ...["nvidia", "nvidia-uvm", "nvidia-modeset"].map(
            (name) => `Running: chroot ${machine} /sbin/modprobe ${name}`,
          ),
          ...["nvidiactl c 195 255", "nvidia-modeset c 195 254", "nvidia-uvm c 508 0", "nvidia-uvm-tools c 508 1"].map(
            (node) => `Running: mknod --mode=0666 ${machine}/dev/${node}`,
          ),
        ],
      ],
    );
    assert.deepEqual(readdirSync(join(machine, "dev")), []);
    const made = run(drivers, ...nodes, "--load-kernel-modules");
    assert.deepEqual([made.status, made.stderr], [0, `Creating control device nodes at ${machine}\n`]);
    assert.equal(readFileSync(join(machine, "loaded"), "utf8"), "nvidia\nnvidia-uvm\nnvidia-modeset\n");
    const listed = spawnSync("stat", ["-c", "%n %a %t:%T", "nvidia-uvm-tools", "nvidiactl"], {
      cwd: join(machine, "dev"),
      encoding: "utf8",
    });
    assert.equal(listed.stdout, "nvidia-uvm-tools 666 1fc:1\nnvidiactl 666 c3:ff\n");
    assert.match(run(drivers, ...nodes).stderr, /Skipping: .*\/dev\/nvidiactl already exists/);
    const moved = run(drivers.replace("508", "509"), ...nodes);
    assert.deepEqual(
      [moved.status, /\/dev\/nvidia-uvm is there already and is another thing/.test(moved.stderr)],
      [1, true],
    );
    assert.match(run("", ...nodes).stderr, /\/proc\/devices has no nvidia: the driver is not loaded/);
    assert.match(run("195 nvidia-frontend", ...nodes, "--dry-run").stderr, /\/proc\/devices has no nvidia-uvm/);
    writeFileSync(join(machine, "sbin/modprobe"), "#!/bin/sh\necho no such module >&2\nexit 1\n");
    assert.match(run(drivers, ...nodes, "--load-kernel-modules").stderr, /modprobe nvidia: no such module\n$/);
    assert.deepEqual([run(drivers, "create-device-nodes").status, run(drivers, "create-device-nodes").stderr], [0, ""]);
  });

  test("system create-dev-char-symlinks --create-all: links for nodes that are not there yet", () => {
    const dir = join(root, "all");
    writeFileSync(join(root, "devices"), "Character devices:\n195 nvidia-frontend\n234 nvidia-caps\n508 nvidia-uvm\n");
    const script = `${PREPARE.replace('exec "$@"', "true")} && cd /sys/bus/pci/devices && mkdir 0000:02:00.0 0000:03:00.0 0000:04:00.0 &&
for address in 0000:01:00.0 0000:02:00.0 0000:04:00.0; do echo 0x10de >$address/vendor; echo 0x030200 >$address/class; done &&
ln -s ../0000:01:00.0 0000:04:00.0/physfn && echo 0x8086 >0000:03:00.0/vendor && echo 0x030000 >0000:03:00.0/class &&
printf 'config 1\nmonitor 2\ngpu7/gi1/access 9\n' >>/proc/driver/nvidia-caps/mig-minors &&
mount --bind "$1" /proc/devices && shift && exec "$@"`;
    const run = (...flags: string[]) =>
      spawnSync(
        "unshare",
        [
          "-m",
          "sh",
          "-c",
          script,
          "sh",
          join(root, "devices"),
          CTK,
          "system",
          "create-dev-char-symlinks",
          "--dev-char-path",
          dir,
          ...flags,
        ],
        { encoding: "utf8" },
      );
    const { status, stderr } = run("--create-all");
    assert.equal(status, 0, stderr);
    const links = Object.fromEntries(readdirSync(dir).map((name) => [name, readlinkSync(join(dir, name))]));
    const caps = Object.fromEntries(
      [1, 2, 3, 4].map((minor) => [`234:${minor}`, `/dev/nvidia-caps/nvidia-cap${minor}`]),
    );
    const control = {
      "195:254": "/dev/nvidia-modeset",
      "195:255": "/dev/nvidiactl",
      "508:0": "/dev/nvidia-uvm",
      "508:1": "/dev/nvidia-uvm-tools",
    };
    assert.deepEqual(links, { "195:0": "/dev/nvidia0", "195:1": "/dev/nvidia1", ...caps, ...control });
    const elsewhere = run(
      "--create-all",
      "--create-device-nodes",
      "--load-kernel-modules",
      "--dry-run",
      "--driver-root",
      "/driver",
    );
    assert.match(
      elsewhere.stderr,
      /^Running: chroot \/driver \/sbin\/modprobe nvidia\n(.*\n)*Running: mknod --mode=0666 \/driver\/dev\/nvidiactl c 195 255\n/,
    );
    assert.match(elsewhere.stderr, /Creating link .*\/234:3 => \/driver\/dev\/nvidia-caps\/nvidia-cap3\n/);
    assert.match(
      run("--create-device-nodes", "--load-kernel-modules", "--dry-run").stderr,
      /load-kernel-modules is only applicable when create-all is set; ignoring\ncreate-device-nodes is only/,
    );
  });

  test("system create-dev-char-symlinks: a link for each node, again and again, and none in a dry run", () => {
    const dir = join(root, "char");
    const run = (...flags: string[]) =>
      spawnSync(CTK, ["system", "create-dev-char-symlinks", "--dev-char-path", dir, "--driver-root", root, ...flags], {
        encoding: "utf8",
      });
    const dry = run("--dry-run");
    assert.match(dry.stderr, new RegExp(`Creating link ${dir}/195:4 => ${root}/dev/nvidia0\n`));
    assert.ok(!existsSync(dir));
    assert.equal(run().status, 0);
    assert.deepEqual(readdirSync(dir).sort(), ["195:0", "195:1", "195:2", "195:3", "195:4", "195:5", "236:3", "236:4"]);
    assert.equal(readlinkSync(join(dir, "236:3")), join(root, "dev/nvidia-caps/nvidia-cap3"));
    assert.match(run().stderr, /195:0 is there already/);
    assert.equal(run("--driver-root", "/nowhere").stderr, "No NVIDIA devices found in /nowhere\n");
  });

  test("cdi list and cdi transform root", () => {
    const file = join(root, "spec/nvidia.yaml");
    spawnSync("mkdir", ["-p", join(root, "spec")]);
    generated(GPUS, "--output", file);
    const list = spawnSync(CTK, ["cdi", "list", "--spec-dir", join(root, "spec")], { encoding: "utf8" });
    assert.equal(list.stderr, "Found 5 CDI devices\n");
    assert.match(list.stdout, /^nvidia\.com\/gpu=0\nnvidia\.com\/gpu=1\n(.*\n){2}nvidia\.com\/gpu=all\n$/);
    const args = ["cdi", "transform", "root", "--from", root, "--to", "/", "--input", file];
    const moved = parseCdiSpec(spawnSync(CTK, args, { encoding: "utf8" }).stdout);
    assert.ok(!JSON.stringify(moved).includes(root));
    assert.deepEqual(moved.devices[1]?.containerEdits.deviceNodes?.[0]?.hostPath, undefined);
  });
});

test("hook NAME is the hook program", () => {
  const { status, stderr } = spawnSync(CTK, ["hook", "no-such-hook", "--x"], { input: "{}", encoding: "utf8" });
  assert.deepEqual([status, stderr], [0, "warning: cdi-hook: unsupported CDI hook: no-such-hook\n"]);
});

test("a root is moved by whole components, on one side, and in the arguments of hooks that run there", () => {
  const hook = (hookName: string) => ({
    hookName,
    path: "/d/hook",
    args: ["hook", "--link", "/d/a::/d/b", "/drivers/x"],
  });
  const edits = {
    deviceNodes: [{ path: "/dev/x", hostPath: "/d/dev/x" }, { path: "/d/y" }],
    mounts: [
      { hostPath: "/d/l", containerPath: "/d/l" },
      { hostPath: "/drivers/l", containerPath: "/l" },
    ],
    hooks: [hook("createContainer"), hook("startContainer"), hook("prestart")],
  };
  const spec = { cdiVersion: "0.5.0", kind: "v/c", devices: [{ name: "a", containerEdits: edits }] };
  const host = withRoot(spec, "host", "/d", "/").devices[0]?.containerEdits;
  assert.deepEqual(host?.deviceNodes, [{ path: "/dev/x" }, { path: "/d/y", hostPath: "/y" }]);
  assert.deepEqual(host?.mounts, [{ hostPath: "/l", containerPath: "/d/l" }, edits.mounts[1]]);
  assert.deepEqual(
    host?.hooks?.map(({ path, args = [] }) => [path, args[2]]),
    [
      ["/hook", "/d/a::/d/b"],
      ["/d/hook", "/d/a::/d/b"],
      ["/hook", "/a::/b"],
    ],
  );
  const container = withRoot(spec, "container", "/d/", "/e").devices[0]?.containerEdits;
  assert.deepEqual(container?.mounts?.[0], { hostPath: "/d/l", containerPath: "/e/l" });
  assert.deepEqual(
    container?.hooks?.map(({ path, args = [] }) => [path, args[2], args[3]]),
    [
      ["/d/hook", "/e/a::/e/b", "/drivers/x"],
      ["/e/hook", "/e/a::/e/b", "/drivers/x"],
      ["/d/hook", "/d/a::/d/b", "/drivers/x"],
    ],
  );
});
