/** The files and nodes of a driver, version 525.147.05, below a directory, with a libnvidia-ml.so that says what a script says. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chownSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const VERSION = "525.147.05";
const LIB = "usr/lib/x86_64-linux-gnu";

/** A library's name without version, its soname, whether the host has a link of that name. */
const LIBRARIES: readonly (readonly [string, string, boolean])[] = [
  ["libcuda.so", "libcuda.so.1", true],
  ["libcudadebugger.so", "libcudadebugger.so.1", true],
  ["libnvidia-ptxjitcompiler.so", "libnvidia-ptxjitcompiler.so.1", true],
  ["libnvidia-allocator.so", "libnvidia-allocator.so.1", true],
  ["libnvidia-opticalflow.so", "libnvidia-opticalflow.so.1", true],
  ["libnvidia-glcore.so", "libnvidia-glcore.so.1", true],
  ["libGLX_nvidia.so", "libGLX_nvidia.so.0", false],
  ["vdpau/libvdpau_nvidia.so", "libvdpau_nvidia.so.1", false],
  ["nvidia/xorg/libglxserver_nvidia.so", "libglxserver_nvidia.so", false],
];
const FILES = [
  `lib/firmware/nvidia/${VERSION}/gsp_ad10x.bin`,
  "usr/share/glvnd/egl_vendor.d/10_nvidia.json",
  "usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
  "usr/share/vulkan/icd.d/nvidia_icd.json",
  "usr/share/X11/xorg.conf.d/10-nvidia.conf",
  "etc/OpenCL/vendors/nvidia.icd",
  "run/nvidia-persistenced/socket",
];
const BINARIES = ["nvidia-smi", "nvidia-debugdump", "nvidia-cuda-mps-control", "nvidia-xconfig"];
const NODES: readonly (readonly [path: string, mode: string, major: number, minor: number, gid?: number])[] = [
  ["nvidiactl", "666", 195, 0],
  ["nvidia-uvm", "666", 195, 1],
  ["nvidia-uvm-tools", "666", 195, 2],
  ["nvidia-modeset", "666", 195, 3],
  ["nvidia0", "666", 195, 4],
  ["nvidia1", "666", 195, 5],
  ["dri/card0", "660", 226, 0, 44],
  ["dri/renderD128", "660", 226, 128],
  ["nvidia-caps/nvidia-cap3", "444", 236, 3],
  ["nvidia-caps/nvidia-cap4", "444", 236, 4],
];

export function makeDriverRoot(root: string): void {
  const put = (path: string, mode = 0o644): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), "", { mode });
  };
  const library = (name: string, soname: string): void => makeLibrary(root, `${LIB}/${name}`, soname);
  for (const [name, soname, linked] of LIBRARIES) {
    library(`${name}.${VERSION}`, soname);
    if (linked) symlinkSync(`${name}.${VERSION}`, join(root, LIB, soname));
  }
  symlinkSync("libcuda.so.1", join(root, LIB, "libcuda.so"));
  library("libnvidia-egl-gbm.so.1.1.0", "libnvidia-egl-gbm.so.1");
  library("libnvidia-nvvm70.so.4", "libnvidia-nvvm70.so.4");
  library("nvidia/xorg/nvidia_drv.so", "x");
  makeNvml(root);
  for (const path of FILES) put(path);
  for (const name of BINARIES) put(`usr/bin/${name}`, 0o755);
  for (const node of NODES) makeNode(root, ...node);
  mkdirSync(join(root, "dev/dri/by-path"));
  symlinkSync("../card0", join(root, "dev/dri/by-path/pci-0000:01:00.0-card"));
  symlinkSync("../renderD128", join(root, "dev/dri/by-path/pci-0000:01:00.0-render"));
}

/** A libnvidia-ml.so.1 that says what FAKE_NVML's file says. */
export function makeNvml(root: string): void {
  makeLibrary(root, `${LIB}/libnvidia-ml.so.${VERSION}`, "libnvidia-ml.so.1", source("nvml.c"));
  symlinkSync(`libnvidia-ml.so.${VERSION}`, join(root, LIB, "libnvidia-ml.so.1"));
}

/** An nvidia-smi that runs, and a libcuda.so.1 that adds vectors, in place of files with nothing in them. */
export function makeDriverPrograms(root: string): void {
  makeLibrary(root, `${LIB}/libcuda.so.${VERSION}`, "libcuda.so.1", source("cuda.c"));
  run("gcc", ["-Wall", "-Wextra", "-Werror", source("smi.c"), "-o", join(root, "usr/bin/nvidia-smi")]);
}

/** A libdxcore.so whose adapters are those of FAKE_DXCORE's file. */
export function makeDxcore(root: string): void {
  makeLibrary(root, "usr/lib/wsl/lib/libdxcore.so", "libdxcore.so", source("dxcore.c"));
}

const source = (name: string): string => new URL(name, import.meta.url).pathname;

/** Of `from`, a C file; without one there is nothing in it. */
export function makeLibrary(root: string, path: string, soname: string, from?: string): void {
  const file = join(root, path);
  mkdirSync(dirname(file), { recursive: true });
  const content =
    from === undefined ? ["-nostdlib", "-x", "c", "/dev/null"] : ["-Wall", "-Wextra", "-Werror", "-x", "c", from];
  run("gcc", ["-shared", "-fPIC", ...content, "-o", file, `-Wl,-soname,${soname}`]);
}

/** Below `root`/dev. */
export function makeNode(root: string, name: string, mode: string, major: number, minor: number, gid?: number): void {
  const path = join(root, "dev", name);
  mkdirSync(dirname(path), { recursive: true });
  run("mknod", ["-m", mode, path, "c", String(major), String(minor)]);
  if (gid !== undefined) chownSync(path, 0, gid);
}

function run(program: string, args: readonly string[]): void {
  const { status, stderr } = spawnSync(program, args, { encoding: "utf8" });
  assert.equal(status, 0, stderr);
}
