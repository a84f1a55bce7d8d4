/** Who this process is, where it is not the root of the machine: an ordinary user, or the root of a user namespace. */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface Identity {
  /** Effective ids, as this process's user namespace counts them. */
  readonly uid: number;
  readonly gid: number;
  /** Not the machine's first user namespace: what it may do is limited whatever its capabilities say. */
  readonly inUserNamespace: boolean;
  /** Whether setgroups(2) is denied here (user_namespaces(7)). */
  readonly groupsDenied: boolean;
  /** newuidmap(1) and newgidmap(1), where an ordinary user needs and has them. */
  readonly mappers: { readonly uid: string; readonly gid: string } | undefined;
}

/** Undefined for the root of the machine. */
export function ownIdentity(): Identity | undefined {
  const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0];
  const map = readFileSync("/proc/self/uid_map", "utf8");
  const setgroups = existsSync(SETGROUPS) ? readFileSync(SETGROUPS, "utf8") : "allow";
  const inUserNamespace = !/^\s*0\s+0\s+4294967295\s*$/.test(map);
  if (uid === 0 && !inUserNamespace) return undefined;
  return {
    uid,
    gid,
    inUserNamespace,
    groupsDenied: setgroups.trim() === "deny",
    mappers: uid === 0 ? undefined : findMappers(),
  };
}

const SETGROUPS = "/proc/self/setgroups";

function findMappers(): Identity["mappers"] {
  const [uid, gid] = [findProgram("newuidmap"), findProgram("newgidmap")];
  return uid === undefined || gid === undefined ? undefined : { uid, gid };
}

/** The absolute path of a program in $PATH, or undefined. */
function findProgram(name: string): string | undefined {
  for (const directory of (process.env["PATH"] ?? "").split(":").filter((one) => one.startsWith("/"))) {
    const path = join(directory, name);
    if (isProgram(path)) return path;
  }
  return undefined;
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch (error) {
    // Whatever else keeps it from being found keeps it from being run.
    if ((error as NodeJS.ErrnoException).code === undefined) throw error;
    return false;
  }
}
