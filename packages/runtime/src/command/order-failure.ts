/** bosun's failures in the words that callers of runc look for. */
import { getSystemErrorMap } from "node:util";
import { OrderError } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { CommandError } from "./failure.ts";

export const START_PREFIX = "unable to start container process: ";

/** What a creation or an exec failed with; other errors as they are. */
export function launchFailure(error: unknown, spec: oci.Spec): unknown {
  if (!(error instanceof OrderError)) return error;
  return new CommandError(`${START_PREFIX}${wordsOf(error, spec)}`, { cause: error });
}

/** Programs and hooks as Go's os/exec and runc tell of them: callers choose their exit status by it, and people search for it. */
function wordsOf(error: OrderError, spec: oci.Spec): string {
  if (isHook(error)) return `error during container init: ${hookFailure(error)}`;
  const { orderName: name, detail } = error;
  if (name === "check_program") return detail;
  if (name === "exec")
    return detail.replace("its interpreter is missing", "no such file or directory (its interpreter is missing)");
  if (name === "seccomp_listener")
    return `error during container init: failed to connect with seccomp agent specified in the seccomp profile: ${inGo(error)}`;
  // What leads out of the container's root is told as it is.
  if (name === "chdir" && error.because === "process.cwd" && error.code !== "EPERM") {
    const [, directory = ""] = /^chdir (.*) \(process\.cwd\): /s.exec(error.message) ?? [];
    return `chdir to cwd (${JSON.stringify(directory)}) set in config.json failed: ${reasonOf(error) ?? error.code}`;
  }
  if (name === "join_cgroup") return `error adding pid 0 to cgroups: ${inGo(error)}`;
  if (name === "mkdir" && error.because === "linux.cgroupsPath")
    return `unable to apply cgroup configuration: ${inGo(error)}`;
  if (name === "scheduler" && error.code === "EPERM" && (spec.linux?.resources?.cpu?.cpus ?? "") !== "")
    return `error during container init: process scheduler can't be used together with AllowedCPUs: ${inGo(error)}`;
  const mount = spec.mounts?.[Number(/^mounts\[(\d+)\]/.exec(error.because ?? "")?.[1])];
  if (mount !== undefined) {
    const [source, target] = [mount.source ?? "", mount.destination].map((path) => JSON.stringify(path));
    return `error during container init: error mounting ${source} to rootfs at ${target}: ${inGo(error)}`;
  }
  return error.where === "container" ? `error during container init: ${inGo(error)}` : inGo(error);
}

/** Where Go's words for an errno are not those of libuv. */
const GO: Readonly<Record<string, string>> = {
  EBUSY: "device or resource busy",
  ELOOP: "too many levels of symbolic links",
  EEXIST: "file exists",
};

const reasonOf = ({ code, errno }: OrderError): string | undefined => GO[code] ?? getSystemErrorMap().get(-errno)?.[1];

/** The message, with the errno in words where they are not in it. */
function inGo(error: OrderError): string {
  const words = reasonOf(error);
  return words === undefined || error.message.includes(words) ? error.message : `${error.message}: ${words}`;
}

const HOOK = /^hooks\.(\w+)\[(\d+)\]$/;

function isHook(error: OrderError): boolean {
  return HOOK.test(error.because ?? "");
}

/** A hook's failure in runc's words. */
export function hookFailure(error: unknown): string {
  const [, kind, index] = (error instanceof OrderError && HOOK.exec(error.because ?? "")) || [];
  if (error instanceof OrderError && kind !== undefined) return `error running ${kind} hook #${index}: ${error.detail}`;
  return error instanceof Error ? error.message : String(error);
}
