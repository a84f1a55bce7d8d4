/** What `cdi generate` makes in the modes for other things than NVML's GPUs; nvidia-ctk 1.20 makes the same but for what docs/compatibility.md lists. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { CdiSpec, ContainerEdits } from "@berth/cdi";
import { generateSpec } from "../src/ctk/generate.ts";
import { makeNode } from "../src/testing/driver-root.ts";

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

  const generate = (mode: string, more: object = {}): CdiSpec =>
    generateSpec({
      mode,
      driverRoot: root,
      nvidiaCdiHookPath: "/usr/bin/nvidia-cdi-hook",
      vendor: "nvidia.com",
      class: "gpu",
      allDevice: true,
      ...more,
    });
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

  test("wsl: Windows' driver, and which one where there are several", () => {
    const store = "/usr/lib/wsl/drivers/nv_dispi.inf_1";
    for (const name of ["libcuda.so.1.1", "nvidia-smi", "libnvidia-ml.so.1", "libmore.so.1", "x.dll", "readme.txt"])
      put(`${store}/${name}`);
    put("usr/lib/wsl/lib/libdxcore.so");
    const spec = generate("auto");
    assert.deepEqual(devices(spec), { all: ["/dev/dxg"] });
    const names = ["libcuda.so.1.1", "libmore.so.1", "libnvidia-ml.so.1", "nvidia-smi", "x.dll"];
    const expected = [...names.map((name) => `${store}/${name}`), "/usr/lib/wsl/lib/libdxcore.so"];
    assert.deepEqual(summary(spec.containerEdits ?? {}).sort(), expected.sort());
    assert.deepEqual(hooks(spec), [
      ["create-symlinks", "--link", `${store}/nvidia-smi::/usr/bin/nvidia-smi`],
      ["update-ldcache", "--folder", store, "--folder", "/usr/lib/wsl/lib"],
    ]);
    put("usr/lib/wsl/drivers/nv_dispi.inf_2/libcuda.so.1.1");
    assert.throws(() => generate("wsl"), /several drivers are in Windows' store: .*inf_1, .*inf_2; name the one/);
    const chosen = generate("wsl", { librarySearchPath: ["/usr/lib/wsl/drivers/nv_dispi.inf_2"] });
    assert.ok(summary(chosen.containerEdits ?? {}).includes("/usr/lib/wsl/drivers/nv_dispi.inf_2/libcuda.so.1.1"));
    rmSync(join(root, "usr/lib/wsl"), { recursive: true });
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
