/** berth-ctk, on a driver root and an NVML that are made up. The golden file is what nvidia-ctk 1.20 prints for them, but for what docs/compatibility.md lists. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
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
    const args = ["-m", "sh", "-c", PREPARE, "sh", CTK, "cdi", "generate", "--driver-root", root, ...flags];
    return spawnSync("unshare", args, { encoding: "utf8", env: { ...process.env, FAKE_NVML: join(root, "nvml.txt") } });
  };
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
    fails(/unsupported device id "1": the GPU of this machine is 0, or all/, GPUS, "--mode", "csv", "--device-id", "1");
    fails(/invalid channel id "x": it must be a number/, GPUS, "--mode", "imex", "--device-id", "x");
    fails(/no IMEX channel 9: .* is not there/, GPUS, "--mode", "imex", "--device-id", "channel9");
    fails(/invalid discovery mode: x/, GPUS, "--mode", "x");
    fails(/invalid device name strategy: x/, GPUS, "--device-name-strategy", "x");
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
