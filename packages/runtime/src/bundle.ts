/** A bundle: a directory with config.json and, normally, the root file system beside it (bundle.md). */
import { readFileSync } from "node:fs";
import { isAbsolute, resolve } from "node:path";
import { oci } from "@berth/spec/oci";

export interface Bundle {
  readonly directory: string;
  /** As in config.json, with relative paths of the host made absolute. */
  readonly spec: oci.Spec;
  /** Absolute. */
  readonly rootfs: string;
}

/** Throws where config.json is missing, is not JSON, or has no root.path. */
export function readBundle(directory: string): Bundle {
  const absolute = resolve(directory);
  const file = resolve(absolute, "config.json");
  const text = readConfig(file);
  let spec: oci.Spec;
  try {
    spec = oci.parseSpec(text);
  } catch (error) {
    throw new Error(`${file} is not JSON: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  const root = (spec as oci.Spec | undefined)?.root?.path;
  if (typeof root !== "string" || root === "") throw new Error(`${file}: root.path is missing`);
  return {
    directory: absolute,
    spec: {
      ...spec,
      ...(spec.process === undefined ? {} : { process: { ...spec.process, user: { ...ROOT, ...user(spec.process) } } }),
      mounts: (spec.mounts ?? []).map((mount) => hostPath(mount, absolute)),
    },
    rootfs: resolve(absolute, root),
  };
}

/** An id that is left out is 0, as for other runtimes' readers. */
const ROOT: oci.User = { uid: 0, gid: 0 };

function user(process: oci.Process): Partial<oci.User> | undefined {
  return process.user;
}

function readConfig(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw error;
    throw new Error(`${file} does not exist; a bundle is a directory with a config.json`, { cause: error });
  }
}

/** config.md: a bind mount's relative source is relative to the bundle. */
function hostPath(mount: oci.Mount, directory: string): oci.Mount {
  const isBind =
    mount.type === "bind" || (mount.options ?? []).some((option) => option === "bind" || option === "rbind");
  return isBind && mount.source !== undefined && !isAbsolute(mount.source)
    ? { ...mount, source: resolve(directory, mount.source) }
    : mount;
}
