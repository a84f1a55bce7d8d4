/** The hooks that a specification has for a driver's files: links that the mounts do not bring, and the linker's cache. */
import { lstatSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import type { CdiHook, CdiMount } from "@berth/cdi/injection";
import { sonameOf } from "./elf.ts";

export type HookMaker = (name: string, args: readonly string[]) => CdiHook[];

/**
 * `path`: the hook program; under the name nvidia-ctk its hooks are below `hook`. `disabled`: hook names, or "all"; `enabled`: those
 * that are made all the same.
 */
export function hookMaker(path: string, disabled: readonly string[], enabled: readonly string[] = []): HookMaker {
  const program = basename(path);
  const fixed = program === "nvidia-ctk" ? [program, "hook"] : [program];
  return (name, args) =>
    !enabled.includes(name) && (disabled.includes(name) || disabled.includes("all"))
      ? []
      : [
          {
            hookName: "createContainer",
            path,
            args: [...fixed, name, ...args],
            env: ["NVIDIA_CTK_DEBUG=false"],
          },
        ];
}

/** None without links. */
export function linkHook(make: HookMaker, links: readonly string[]): CdiHook[] {
  return links.length === 0
    ? []
    : make(
        "create-symlinks",
        [...new Set(links)].flatMap((link) => ["--link", link]),
      );
}

/** Of the linker's cache, for the directories of libraries among the mounts; `ldconfigPath`: the program, if not the usual one. */
export function cacheHook(make: HookMaker, mounts: readonly CdiMount[], ldconfigPath: string | undefined): CdiHook[] {
  const program = ldconfigPath === undefined ? [] : ["--ldconfig-path", ldconfigPath];
  return make("update-ldcache", [...program, ...libraryFolders(mounts).flatMap((folder) => ["--folder", folder])]);
}

/** Links that graphics programs look for. */
export function graphicsLinks(mounts: readonly CdiMount[], version: string): string[] {
  return mounts.flatMap(({ containerPath }) => {
    const [dir, name] = [dirname(containerPath), basename(containerPath)];
    switch (name) {
      case `libnvidia-allocator.so.${version}`:
        return [`../libnvidia-allocator.so.1::${dir}/gbm/nvidia-drm_gbm.so`];
      case `libnvidia-vulkan-producer.so.${version}`:
        return [`${name}::${dir}/libnvidia-vulkan-producer.so`];
      case `libglxserver_nvidia.so.${version}`:
        return [`${name}::${dir}/libglxserver_nvidia.so`];
      default:
        return [];
    }
  });
}

/** The links of the driver's libraries: those that programs wrongly expect, and those that the host has by soname. */
export function libraryLinks(mounts: readonly CdiMount[]): string[] {
  return mounts.flatMap(({ hostPath, containerPath }) => [
    ...expectedLinks(containerPath),
    ...sonameLinks(hostPath, containerPath),
  ]);
}

function expectedLinks(path: string): string[] {
  const [dir, name] = [dirname(path), basename(path)];
  if (/^libcuda\.so\..*\..*$/.test(name)) return [`libcuda.so.1::${dir}/libcuda.so`];
  if (/^libGLX_nvidia\.so\..*\..*$/.test(name)) return [`${name}::${dir}/libGLX_indirect.so.0`];
  if (/^libnvidia-opticalflow\.so\..*\..*$/.test(name))
    return [`libnvidia-opticalflow.so.1::${dir}/libnvidia-opticalflow.so`];
  return [];
}

function sonameLinks(hostPath: string, containerPath: string): string[] {
  const name = basename(containerPath);
  if (!/\..*\./.test(name)) return [];
  const found = sonameOf(hostPath);
  if (found === undefined) return [];
  const soname = found || name;
  const [host, dir] = [dirname(hostPath), dirname(containerPath)];
  const short = shortLink(soname);
  return [
    ...(soname !== name && isLink(join(host, soname)) ? [`${name}::${dir}/${soname}`] : []),
    ...(short !== "" && short !== soname && isLink(join(host, short)) ? [`${soname}::${dir}/${short}`] : []),
  ];
}

/** libx.so.1.2 → libx.so; "" where there is no ".so". */
function shortLink(name: string): string {
  const extension = extname(name);
  if (extension === "" || extension === ".so") return extension === "" ? "" : name;
  return shortLink(name.slice(0, -extension.length));
}

function isLink(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true;
}

function libraryFolders(mounts: readonly CdiMount[]): string[] {
  const libraries = mounts.filter(({ containerPath }) => /^lib.+\.so(\.[^/]*)?$/.test(basename(containerPath)));
  return [...new Set(libraries.map(({ containerPath }) => dirname(containerPath)))];
}
