/** The files of an installed NVIDIA driver, below a root: what there is, where, and where it belongs in a container. */
import { existsSync, globSync, readFileSync, realpathSync, statSync } from "node:fs";
import { release } from "node:os";
import { basename, dirname, isAbsolute, join, matchesGlob } from "node:path";
import type { CdiMount } from "@berth/cdi/injection";
import { NVML_NAME } from "../nvml/name.ts";
import { is32Bit } from "./elf.ts";
import { cachedLibraries } from "./ldcache.ts";
import { MOUNT_OPTIONS } from "./mounts.ts";

const IPC_OPTIONS = ["nosuid", "nodev", "rbind", "rprivate", "noexec"];
const LIBRARY_DIRS = [
  "/usr/lib64",
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib/aarch64-linux-gnu",
  "/usr/lib/x86_64-linux-gnu/nvidia/current",
  "/usr/lib/aarch64-linux-gnu/nvidia/current",
  "/lib64",
  "/lib/x86_64-linux-gnu",
  "/lib/aarch64-linux-gnu",
  "/lib/x86_64-linux-gnu/nvidia/current",
  "/lib/aarch64-linux-gnu/nvidia/current",
];
const LIBRARY_DIRS_32 = ["/usr/lib/i386-linux-gnu", "/usr/lib/i386-linux-gnu/nvidia/current", "/usr/lib32", "/usr/lib"];
const BINARY_DIRS = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const BINARIES = [
  "nvidia-smi",
  "nvidia-debugdump",
  "nvidia-persistenced",
  "nvidia-cuda-mps-control",
  "nvidia-cuda-mps-server",
  "nvidia-imex",
  "nvidia-imex-ctl",
];
const GRAPHICS_LIBRARIES = ["gbm", "wayland", "wayland2", "xcb", "xlib"].map((name) => `libnvidia-egl-${name}.so.*.*`);
/** Of libglvnd and the OpenCL loader, which NVIDIA's installer may have brought. */
const EXPLICIT_LIBRARIES = [
  "libEGL.so",
  "libGL.so",
  "libGLESv1_CM.so",
  "libGLESv2.so",
  "libGLX.so",
  "libGLdispatch.so",
  "libOpenCL.so",
  "libOpenGL.so",
  "libnvidia-api.so",
  "libnvidia-egl-xcb.so",
  "libnvidia-egl-xlib.so",
];
const SHARE_CONFIGS = [
  "glvnd/egl_vendor.d/10_nvidia.json",
  "egl/egl_external_platform.d/15_nvidia_gbm.json",
  "egl/egl_external_platform.d/10_nvidia_wayland.json",
  "egl/egl_external_platform.d/09_nvidia_wayland2.json",
  "egl/egl_external_platform.d/20_nvidia_xcb.json",
  "egl/egl_external_platform.d/20_nvidia_xlib.json",
  "nvidia/nvoptix.bin",
  "X11/xorg.conf.d/10-nvidia.conf",
  "X11/xorg.conf.d/nvidia-drm-outputclass.conf",
];
const ETC_CONFIGS = ["OpenCL/vendors/nvidia.icd"];
const VULKAN_CONFIGS = [
  "vulkan/icd.d/nvidia_icd.json",
  "vulkan/icd.d/nvidia_layers.json",
  "vulkan/implicit_layer.d/nvidia_layers.json",
  `vulkan/icd.d/nvidia_icd.${process.arch === "arm64" ? "aarch64" : "x86_64"}.json`,
];
const XORG_DIRS = ["drivers", "extensions"].flatMap((kind) => [`xorg/modules/${kind}`, `xorg/modules/updates/${kind}`]);

export class Driver {
  /** Without a slash at its end; "" is the machine's own root. */
  readonly root: string;
  readonly version: string;
  /** As the container has them. */
  readonly libraryDirs: readonly string[];
  readonly #searchPaths: readonly string[];

  /**
   * `version`: NVML's word; without it, what the names of the libraries say. `searchPaths`: directories of the machine for the
   * usual ones. Throws Error when there is no driver.
   */
  constructor(root: string, version?: string, searchPaths: readonly string[] = []) {
    this.root = root.replace(/\/+$/, "");
    this.#searchPaths = searchPaths;
    this.version = version ?? this.#inferVersion();
    const libraries = this.#library(`lib*.so.${this.version}`);
    this.libraryDirs = [...new Set(libraries.map((path) => dirname(this.inContainer(path))))];
    if (this.libraryDirs.length === 0)
      throw new Error(`no library of driver version ${this.version} below ${this.root || "/"}: is the driver there?`);
  }

  static findNvml(root: string, searchPaths: readonly string[] = []): string | undefined {
    const named = searchPaths.map((dir) => join(dir, NVML_NAME)).find((path) => existsSync(path));
    return named ?? Driver.findLibrary(root, NVML_NAME);
  }

  static findLibrary(root: string, name: string): string | undefined {
    const usual = LIBRARY_DIRS.map((dir) => join(root, dir, name)).find((path) => existsSync(path));
    return (
      usual ??
      cachedLibraries(root)
        .map((path) => join(root, path))
        .find((path) => basename(path) === name && existsSync(path))
    );
  }

  inContainer(path: string): string {
    return this.root !== "" && path.startsWith(`${this.root}/`) ? path.slice(this.root.length) : path;
  }

  /** Mounts of the driver's own libraries, which the container's linker is to find. */
  libraries(): CdiMount[] {
    const dirs = [...this.libraryDirs, ...this.libraryDirs.map((dir) => `${dir}/vdpau`)];
    const versioned = this.#locate(dirs, `*.so.${this.version}`);
    return this.#mounts([...versioned, ...this.#locate(this.libraryDirs, "libnvidia-nvvm70.so.*")]);
  }

  /** Mounts of the libraries for 32-bit programs. */
  libraries32(): CdiMount[] {
    const dirs = LIBRARY_DIRS_32.flatMap((dir) => [dir, `${dir}/vdpau`]);
    return this.#mounts(this.#locate(dirs, `lib*.so.${this.version}`).filter((path) => is32Bit(path)));
  }

  /** Mounts of libraries by which programs reach the driver's. */
  explicitLibraries(): CdiMount[] {
    return this.#mounts(EXPLICIT_LIBRARIES.flatMap((name) => this.#locate(this.libraryDirs, name)));
  }

  /** Mounts of what graphics takes beside them; the allocator is among the libraries. */
  graphics(): CdiMount[] {
    const producer = `libnvidia-vulkan-producer.so.${this.version}`;
    const libraries = [...GRAPHICS_LIBRARIES, producer].flatMap((name) => this.#library(name));
    const xorgDirs = [
      ...this.libraryDirs.flatMap((dir) => [`${dir}/nvidia/xorg`, ...XORG_DIRS.map((xorg) => `${dir}/${xorg}`)]),
      ...["/usr/lib", "/usr/lib64"].flatMap((dir) => XORG_DIRS.map((xorg) => `${dir}/${xorg}`)),
      ...["/usr/X11R6/lib", "/usr/X11R6/lib64"].flatMap((dir) =>
        XORG_DIRS.map((xorg) => `${dir}/${xorg.slice("xorg/".length)}`),
      ),
    ];
    const xorg = ["nvidia_drv.so", `libglxserver_nvidia.so.${this.version}`].flatMap((name) =>
      this.#first(xorgDirs.map((dir) => `${dir}/${name}`)),
    );
    return this.#mounts([...libraries, ...xorg]);
  }

  /** Programs and firmware. */
  files(): CdiMount[] {
    const firmware = firmwareDirs().flatMap((dir) => this.#locate([dir], `nvidia/${this.version}/gsp*.bin`, false));
    return this.#mounts([...BINARIES.flatMap((name) => this.#binary(name)), ...firmware]);
  }

  /** Of the driver's daemons. */
  sockets(): CdiMount[] {
    const sockets = ["nvidia-persistenced/socket", "nvidia-fabricmanager/socket"]
      .flatMap((name) => this.#first(["/run", "/var/run"].map((dir) => `${dir}/${name}`)))
      .concat(this.#first(["/tmp/nvidia-mps"], () => true));
    return this.#mounts(sockets).map((mount) => ({ ...mount, options: IPC_OPTIONS }));
  }

  /** Programs and configuration of graphics. */
  graphicsFiles(searchPaths: readonly string[] = []): CdiMount[] {
    return [
      ...this.#mounts(this.#binary("nvidia-xconfig")),
      ...this.#configs(SHARE_CONFIGS, "/usr/share", searchPaths),
      ...this.#configs(ETC_CONFIGS, "/etc", searchPaths),
      ...this.#configs(VULKAN_CONFIGS, "/etc", searchPaths, ["/"]),
    ];
  }

  /** In the directories of PATH first. */
  #binary(name: string): string[] {
    const path = (process.env["PATH"] ?? "").split(":").filter((dir) => isAbsolute(dir));
    return this.#first(
      [...new Set([...path, ...BINARY_DIRS])].map((dir) => `${dir}/${name}`),
      isExecutable,
    );
  }

  #inferVersion(): string {
    for (const library of ["libcuda.so.", "libnvidia-ml.so."]) {
      const [path] = this.#library(`${library}*.*`);
      if (path !== undefined) return basename(path).slice(library.length);
    }
    throw new Error(`no libcuda.so.VERSION or libnvidia-ml.so.VERSION below ${this.root || "/"}: is the driver there?`);
  }

  /** Files that match, links followed, each once, in the order of `dirs` and then of their names. */
  #locate(dirs: readonly string[], pattern: string, follow = true): string[] {
    const found = dirs.flatMap((dir) => globSync(join(this.root, dir, pattern)).sort());
    return files(found, follow);
  }

  /** In the usual directories, else where the linker's cache says. */
  #library(pattern: string): string[] {
    if (this.#searchPaths.length > 0)
      return files(this.#searchPaths.flatMap((dir) => globSync(join(dir, pattern)).sort()));
    const usual = this.#locate(LIBRARY_DIRS, pattern);
    if (usual.length > 0) return usual;
    const cached = cachedLibraries(this.root).map((path) => join(this.root, path));
    return files(cached).filter((path) => matchesGlob(basename(path), pattern));
  }

  #first(paths: readonly string[], fits: (path: string) => boolean = isFile): string[] {
    const found = paths.map((path) => join(this.root, path)).find((path) => existsSync(path) && fits(path));
    return found === undefined ? [] : [found];
  }

  #mounts(paths: readonly string[]): CdiMount[] {
    return [...new Set(paths)].map((hostPath) => ({
      hostPath,
      containerPath: this.inContainer(hostPath),
      options: MOUNT_OPTIONS,
    }));
  }

  /** At their standard places in the container, wherever the host has them. `only`: directories in place of the usual ones. */
  #configs(names: readonly string[], place: string, only: readonly string[], more: readonly string[] = []): CdiMount[] {
    const shares = (process.env["XDG_DATA_DIRS"] || "/usr/local/share:/usr/share").split(":");
    const inRoot = [...(only.length > 0 ? [] : ["/etc", ...shares]), ...more].map((dir) => join(this.root, dir));
    return names.flatMap((name) => {
      const hostPath = [...only, ...inRoot]
        .map((dir) => join(dir, name))
        .find((path) => existsSync(path) && isFile(path));
      return hostPath === undefined ? [] : [{ hostPath, containerPath: `${place}/${name}`, options: MOUNT_OPTIONS }];
    });
  }
}

function firmwareDirs(): string[] {
  const parameter = "/sys/module/firmware_class/parameters/path";
  const custom = existsSync(parameter) ? readFileSync(parameter, "utf8").trim() : "";
  const standard = ["/lib/firmware/updates", "/lib/firmware"].flatMap((dir) => [`${dir}/${release()}`, dir]);
  return custom === "" ? standard : [custom, ...standard];
}

/** Those of `paths` that are files, each once. */
function files(paths: readonly string[], follow = true): string[] {
  const found = paths.filter(isFile);
  return [...new Set(follow ? found.map((path) => realpathSync(path)) : found)];
}

function isFile(path: string): boolean {
  return existsSync(path) && !statSync(path).isDirectory();
}

function isExecutable(path: string): boolean {
  return isFile(path) && (statSync(path).mode & 0o111) !== 0;
}
