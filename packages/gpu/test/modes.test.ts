/** What `cdi generate` makes in the modes for other things than NVML's GPUs; nvidia-ctk 1.20 makes the same but for what docs/compatibility.md lists. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { CdiSpec, ContainerEdits } from "@berth/cdi";
import { generateSpecs } from "../src/ctk/generate.ts";
import { makeDriverRoot, makeDxcore, makeLibrary, makeNode, makeNvml } from "../src/testing/driver-root.ts";

const NODES = [
  "nvidia-fs0",
  "nvidia-fs1",
  "gdrdrv",
  "infiniband/uverbs0",
  "infiniband/rdma_cm",
  "nvidia-nvswitchctl",
  "nvidia-nvswitch0",
  "nvidia-caps-imex-channels/channel0",
  "nvidia-caps-imex-channels/channel3",
  "nvhost-gpu",
  "dxg",
];
const LIB = "/usr/lib/aarch64-linux-gnu";

describe("modes of cdi generate", { skip: process.getuid?.() === 0 ? false : "needs root, for device nodes" }, () => {
  let root = "";
  const put = (path: string, content = ""): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  };
  before(() => {
    root = mkdtempSync(join(tmpdir(), "berth-modes-"));
    for (const [index, name] of NODES.entries()) makeNode(root, name, "666", 300 + index, 1);
    mkdirSync(join(root, "run/udev"), { recursive: true });
    put("etc/cufile.json", "{}");
  });
  after(() => rmSync(root, { recursive: true, force: true }));

  const warnings: string[] = [];
  const flags = (mode: string) => ({
    mode,
    driverRoot: root,
    nvidiaCdiHookPath: "/usr/bin/nvidia-cdi-hook",
    vendor: "nvidia.com",
    class: "gpu",
    allDevice: true,
  });
  const generate = (mode: string, more: object = {}): CdiSpec => {
    const [made] = generateSpecs({ ...flags(mode), ...more }, (message) => warnings.push(message));
    assert.ok(made);
    return made.spec;
  };
  const summary = ({ deviceNodes = [], mounts = [] }: ContainerEdits) => [
    ...deviceNodes.map(({ path }) => path),
    ...mounts.map(({ containerPath }) => containerPath),
  ];
  const devices = (spec: CdiSpec) =>
    Object.fromEntries(spec.devices.map(({ name, containerEdits }) => [name, summary(containerEdits)]));
  const hooks = (spec: CdiSpec) => spec.containerEdits?.hooks?.map(({ args = [] }) => args.slice(1));

  test("parts beside the GPUs are one device each, channels of IMEX one by one", () => {
    assert.deepEqual(devices(generate("gds")), {
      all: ["/dev/nvidia-fs0", "/dev/nvidia-fs1", "/run/udev", "/etc/cufile.json"].sort(byDepth),
    });
    assert.deepEqual(devices(generate("gdrcopy")), { all: ["/dev/gdrdrv"] });
    assert.deepEqual(devices(generate("mofed")), { all: ["/dev/infiniband/rdma_cm", "/dev/infiniband/uverbs0"] });
    assert.deepEqual(devices(generate("nvswitch")), { all: ["/dev/nvidia-nvswitch0", "/dev/nvidia-nvswitchctl"] });
    const channel = (id: string): string => `/dev/nvidia-caps-imex-channels/channel${id}`;
    assert.deepEqual(devices(generate("imex")), {
      0: [channel("0")],
      3: [channel("3")],
      all: [channel("0"), channel("3")],
    });
    assert.deepEqual(devices(generate("imex", { deviceId: ["channel3"], allDevice: false })), { 3: [channel("3")] });
    assert.deepEqual(generate("imex").containerEdits?.env, ["NVIDIA_VISIBLE_DEVICES=void"]);
  });

  test("csv: nodes, directories, libraries and links of a Tegra system", () => {
    put(`${LIB}/libcuda.so.1.1`);
    symlinkSync("libcuda.so.1.1", join(root, LIB, "libcuda.so.1"));
    symlinkSync("libcuda.so.1", join(root, LIB, "libcuda.so"));
    put("lib/firmware/tegra/x.bin");
    put("csv/devices.csv", "dev, /dev/nvhost-gpu\ndev, /dev/none\n\n# nothing\nunknown, /x\n");
    put("csv/drivers.csv", `dir, /lib/firmware/tegra\nlib, ${LIB}/libcuda.so.1.1\n sym , ${LIB}/libcuda.so\n`);
    const files = ["devices.csv", "drivers.csv", "none.csv"].map((name) => join(root, "csv", name));
    const spec = generate("csv", { "csv.file": files });
    assert.deepEqual(devices(spec), { 0: ["/dev/nvhost-gpu"], all: ["/dev/nvhost-gpu"] });
    assert.deepEqual(summary(spec.containerEdits ?? {}), ["/lib/firmware/tegra", `${LIB}/libcuda.so.1.1`]);
    const links = [`libcuda.so.1::${LIB}/libcuda.so`, `libcuda.so.1.1::${LIB}/libcuda.so.1`];
    assert.deepEqual(hooks(spec), [
      ["create-symlinks", "--link", links[0]],
      ["create-symlinks", ...links.flatMap((link) => ["--link", link])],
      ["update-ldcache", "--folder", LIB],
    ]);
    const without = generate("csv", { "csv.file": files, "csv.ignorePattern": ["**/libcuda.so"] });
    assert.deepEqual(
      hooks(without)?.map(([name]) => name),
      ["create-symlinks", "update-ldcache"],
    );
  });

  test("csv: a discrete GPU beside the chip's own, by NVML's word; without it, or asked not to, there is one", () => {
    const script = join(root, "nvml.txt");
    const [chip, card] = ["54d0709b-558d-5a59-9c65-0c5fc14a21a4", "GPU-22222222-558d-5a59-9c65-0c5fc14a21a4"];
    const pair = `cuda 12060\ngpu ${chip} 0 - 0 Orin (nvgpu)\ngpu ${card} 1 00000000:09:00.0 0 RTX A6000\n`;
    const say = (text: string) => {
      writeFileSync(script, text);
      process.env["FAKE_NVML"] = script;
    };
    makeNvml(root);
    try {
      for (const [minor, name] of ["nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"].entries())
        makeNode(root, name, "666", 195, minor);
      put(
        "csv/devices.csv",
        ["nvhost-gpu", "nvidia[0-9]", "nvidiactl", "nvidia-uvm"].map((name) => `dev, /dev/${name}\n`).join(""),
      );
      const csv = { "csv.file": [join(root, "csv/devices.csv")] };
      say(pair);
      const spec = generate("csv", csv);
      const own = ["/dev/nvhost-gpu", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia2", "/dev/nvidiactl"];
      const other = ["/dev/nvhost-gpu", "/dev/nvidia-uvm", "/dev/nvidia1", "/dev/nvidiactl"];
      const all = [...new Set([...own, ...other])].sort();
      assert.deepEqual(devices(spec), { 0: own, 1: other, [chip]: own, [card]: other, all });
      const compat = ["enable-cuda-compat", "--host-cuda-version=12.6"];
      assert.deepEqual(hooks(spec)?.[0], [...compat, "--cuda-compat-container-root=/usr/local/cuda/compat_orin"]);
      const elsewhere = generate("csv", { ...csv, "csv.compatContainerRoot": "/opt/compat" });
      assert.deepEqual(hooks(elsewhere)?.[0], [...compat, "--cuda-compat-container-root=/opt/compat"]);
      const names = (more: object) => generate("csv", { ...csv, ...more }).devices.map(({ name }) => name);
      assert.deepEqual(names({ deviceId: ["1"], deviceNameStrategy: ["type-index"] }), ["all", "gpu1"]);
      assert.deepEqual(names({ deviceId: [chip], deviceNameStrategy: ["index"], allDevice: false }), ["0"]);
      assert.throws(() => names({ deviceId: ["2"] }), /--device-id 2: NVML knows no GPU/);
      assert.deepEqual(names({ featureFlag: ["disable-multiple-csv-devices"] }), ["0", "all"]);
      assert.deepEqual(warnings, []);

      say(pair.replace("- 0 Orin (nvgpu)", "00000000:01:00.0 0 NVIDIA Thor"));
      assert.deepEqual(names({ deviceNameStrategy: ["index"] }), ["0", "1", "all"]);
      say(pair.replace("- 0 Orin (nvgpu)", "00000000:08:00.0 0 RTX A4000"));
      assert.deepEqual(names({}), ["0", "all"]);
      assert.match(warnings.splice(0).join(), /\(discrete, discrete\) are no pair/);
      assert.throws(() => names({ deviceNameStrategy: ["uuid"] }), /--device-name-strategy uuid: .* has no UUID/);

      // What kind of machine it is: by NVML's names, where the files alone do not say.
      put("etc/nv_tegra_release");
      const isCsv = () =>
        generate("auto", csv).devices.some(({ containerEdits }) => summary(containerEdits).includes("/dev/nvhost-gpu"));
      say(pair);
      assert.ok(isCsv());
      say(pair.replace("Orin (nvgpu)", "GT 710").replace(" - ", " 00000000:08:00.0 "));
      assert.ok(!isCsv());
    } finally {
      delete process.env["FAKE_NVML"];
      rmSync(join(root, "etc/nv_tegra_release"), { force: true });
      rmSync(join(root, "usr/lib/x86_64-linux-gnu"), { recursive: true, force: true });
    }
  });

  test("wsl: the driver that Windows' adapters use; else the one there is, or the one that is named", () => {
    const store = "/usr/lib/wsl/drivers/nv_dispi.inf_1";
    const script = join(root, "dxcore.txt");
    for (const name of ["libcuda.so.1.1", "nvidia-smi", "libnvidia-ml.so.1", "libmore.so.1", "x.dll", "readme.txt"])
      put(`${store}/${name}`);
    makeDxcore(root);
    process.env["FAKE_DXCORE"] = script;
    try {
      writeFileSync(script, `adapter 2700 ${store}\n`);
      const spec = generate("auto");
      assert.deepEqual(devices(spec), { all: ["/dev/dxg"] });
      const names = ["libcuda.so.1.1", "libmore.so.1", "libnvidia-ml.so.1", "nvidia-smi", "x.dll"];
      const expected = [...names.map((name) => `${store}/${name}`), "/usr/lib/wsl/lib/libdxcore.so"];
      assert.deepEqual(summary(spec.containerEdits ?? {}).sort(), expected.sort());
      assert.deepEqual(hooks(spec), [
        ["create-symlinks", "--link", `${store}/nvidia-smi::/usr/bin/nvidia-smi`],
        ["update-ldcache", "--folder", store, "--folder", "/usr/lib/wsl/lib"],
      ]);

      const [second, intel] = ["/usr/lib/wsl/drivers/nv_dispi.inf_2", "/usr/lib/wsl/drivers/iigd.inf_1"];
      put(`${second}/libcuda.so.1.1`);
      put(`${intel}/igd.so`);
      const inUse = (adapters: string, more: object = {}) => {
        writeFileSync(script, adapters);
        return summary(generate("wsl", more).containerEdits ?? {}).find((path) => path.endsWith("libcuda.so.1.1"));
      };
      const both = `adapter 3000 ${intel}\nadapter 2600 ${store}\nadapter 2700 ${second}\nadapter 2700 ${second}\n`;
      assert.equal(inUse(both), `${second}/libcuda.so.1.1`);
      assert.equal(inUse(`old\n${both}`), `${second}/libcuda.so.1.1`);
      assert.throws(() => inUse(""), /several drivers are in Windows' store: .*inf_1, .*inf_2; name the one/);
      assert.equal(inUse("", { librarySearchPath: [second] }), `${second}/libcuda.so.1.1`);
    } finally {
      delete process.env["FAKE_DXCORE"];
      rmSync(join(root, "usr/lib/wsl"), { recursive: true });
    }
  });

  test("libraries that only the linker's cache knows, or a directory that is named, and those beside the driver's own", () => {
    makeDriverRoot(join(root, "driver"));
    const driver = join(root, "driver");
    const lib = "usr/lib/x86_64-linux-gnu";
    makeLibrary(driver, `${lib}/libOpenCL.so`, "libOpenCL.so.1");
    writeFileSync(
      join(root, "gpus.txt"),
      "driver 525.147.05\ngpu GPU-1 0 00000000:01:00.0 0 GH200 480GB\ngpu GPU-2 1 00000000:02:00.0 0 A100\n",
    );
    process.env["FAKE_NVML"] = join(root, "gpus.txt");
    const mounts = (more: object = {}) =>
      (generate("nvml", { driverRoot: driver, ...more }).containerEdits?.mounts ?? []).map(
        ({ containerPath }) => containerPath,
      );
    try {
      assert.ok(!mounts().includes(`/${lib}/libOpenCL.so`));
      put("driver/opt/nv/bin/nvidia-smi");
      chmodSync(join(driver, "opt/nv/bin/nvidia-smi"), 0o755);
      const path = process.env["PATH"];
      process.env["PATH"] = `/opt/nv/bin:${path}`;
      assert.deepEqual(
        mounts().filter((one) => one.endsWith("/nvidia-smi")),
        ["/opt/nv/bin/nvidia-smi"],
      );
      process.env["PATH"] = path;
      assert.ok(mounts({ featureFlag: ["enable-explicit-driver-libraries"] }).includes(`/${lib}/libOpenCL.so`));

      const coherent = generateSpecs({
        ...flags("nvml"),
        driverRoot: driver,
        featureFlag: ["enable-coherent-annotations"],
      });
      assert.deepEqual(
        coherent.map(({ infix, spec }) => [
          infix,
          spec.kind,
          spec.devices.map(({ name, annotations }) => annotations ?? name),
        ]),
        [
          ["", "nvidia.com/gpu", ["0", "1", "GPU-1", "GPU-2", "all"]],
          [".coherent", "nvidia.com/gpu.coherent", ["0", "GPU-1", "all"]],
          [".noncoherent", "nvidia.com/gpu.noncoherent", ["1", "GPU-2", "all"]],
        ],
      );

      mkdirSync(join(driver, "opt/nvidia"), { recursive: true });
      renameSync(join(driver, lib), join(driver, "opt/nvidia/lib"));
      assert.throws(() => mounts(), /libnvidia-ml\.so\.1: .*: is NVIDIA's driver installed here\?/);
      assert.ok(
        mounts({ librarySearchPath: [join(driver, "opt/nvidia/lib")] }).includes(
          "/opt/nvidia/lib/libcuda.so.525.147.05",
        ),
      );
      put("driver/etc/ld.so.conf", "/opt/nvidia/lib\n");
      const { status, stderr } = spawnSync("/sbin/ldconfig", ["-r", driver], { encoding: "utf8" });
      assert.equal(status, 0, stderr);
      const found = mounts();
      assert.ok(
        found.includes("/opt/nvidia/lib/libcuda.so.525.147.05") &&
          found.includes("/opt/nvidia/lib/vdpau/libvdpau_nvidia.so.525.147.05"),
        found.join(),
      );
      put("driver/etc/ld.so.cache", "glibc-ld.so.cache1.1\xff\xff\xff\xff");
      assert.throws(() => mounts(), /libnvidia-ml\.so\.1: .*: is NVIDIA's driver installed here\?/);
    } finally {
      delete process.env["FAKE_NVML"];
    }
  });

  test("features: groups of nodes are left out", () => {
    makeNode(root, "nvidia-fs7", "660", 400, 1, 44);
    assert.deepEqual(generate("gds").devices[0]?.containerEdits.additionalGids, [44]);
    const spec = generate("gds", { featureFlag: ["no-additional-gids-for-device-nodes"] });
    assert.equal(spec.devices[0]?.containerEdits.additionalGids, undefined);
  });
});

function byDepth(a: string, b: string): number {
  const nodes = Number(b.startsWith("/dev")) - Number(a.startsWith("/dev"));
  return nodes || (a < b ? -1 : 1);
}
