/**
 * Containers that another OCI runtime makes (runc, crun, nvidia-container-runtime …), as plans: its command line is carried out under
 * the container's monitor, which holds the streams and sees the end as it does for berth's own.
 */
import { CLONE, type HostFacts, O, type Plan } from "@berth/kernel";
import { PlanBuilder } from "./builder.ts";
import type { Rootfs } from "./context.ts";
import { openRootfs } from "./rootfs.ts";

export interface RuntimeBinary {
  /** Of the executable. */
  readonly path: string;
  /** --root: where it keeps its state. */
  readonly root: string;
  /** --systemd-cgroup: linux.cgroupsPath is "slice:prefix:name", and the runtime has systemd make the scope. */
  readonly systemdCgroup?: boolean | undefined;
}

export interface BinaryCall {
  readonly binary: RuntimeBinary;
  /** Of the container, for the runtime. */
  readonly id: string;
  /** Where it writes what went wrong, as lines of JSON. */
  readonly log: string;
  readonly env: Readonly<Record<string, string>>;
}

interface ProcessCall extends BinaryCall {
  readonly pidFile: string;
  /** A path for a socket that is not there yet, of at most 107 bytes; undefined: no terminal. */
  readonly consoleSocket: string | undefined;
}

export interface BinaryContainer extends ProcessCall {
  /** A directory with config.json and an empty directory rootfs, on a mount that is private. */
  readonly bundle: string;
  readonly rootfs: Rootfs;
  /** Of the user namespace whose ids the root file system's owners are; undefined: the host's. */
  readonly userns: string | undefined;
  readonly host: HostFacts;
  readonly noPivotRoot: boolean;
  readonly noNewKeyring: boolean;
}

export interface BinaryExec extends ProcessCall {
  /** A file with the OCI process. */
  readonly process: string;
}

/** The beginning of every command line. */
export function runtimeCommand({ binary, log }: BinaryCall, ...rest: readonly string[]): string[] {
  const { path, root, systemdCgroup } = binary;
  const global = ["--root", root, "--log", log, "--log-format", "json"];
  if (systemdCgroup === true) global.push("--systemd-cgroup");
  return [path, ...global, ...rest];
}

/**
 * `create`, parked, then `start`. The root file system is mounted for the runtime alone: the host's mount table does not see it. Other
 * mounts stay the host's peers, so that a volume with shared propagation is one.
 */
export function planBinaryContainer(call: BinaryContainer): Plan {
  const plan = new PlanBuilder();
  mountRootfs(plan, call);
  const options = [
    "--bundle",
    call.bundle,
    "--pid-file",
    call.pidFile,
    ...(call.consoleSocket === undefined ? [] : ["--console-socket", call.consoleSocket]),
    ...(call.noPivotRoot ? ["--no-pivot"] : []),
    ...(call.noNewKeyring ? ["--no-new-keyring"] : []),
  ];
  addCommand(plan, call, runtimeCommand(call, "create", ...options, call.id), call);
  plan.add("park", {}, "StartContainer");
  addCommand(plan, call, runtimeCommand(call, "start", call.id));
  return plan.plan();
}

/** In the bundle, in a mount namespace of the stage's own. */
function mountRootfs(
  plan: PlanBuilder,
  { rootfs, host, userns: path, bundle }: Pick<BinaryContainer, "rootfs" | "host" | "userns" | "bundle">,
): void {
  const userns = path === undefined ? undefined : plan.slot("root.path");
  if (userns !== undefined && path !== undefined)
    plan.add("open", { slot: userns, path, flags: BigInt(O.RDONLY) }, "root.path");
  const slot = openRootfs(plan, rootfs, host, userns);
  if (userns !== undefined) plan.add("close", { slot: userns }, "root.path");
  plan.add("unshare", { flags: CLONE.NEWNS }, "root.path");
  plan.add("attach_host", { slot, target: `${bundle}/rootfs` }, "root.path");
  plan.add("close", { slot }, "root.path");
}

export interface BinaryRestore extends Omit<BinaryContainer, "noPivotRoot" | "noNewKeyring"> {
  /** Directories of CRIU's images, and of its logs. */
  readonly images: string;
  readonly work: string;
}

/** Parked, then `restore`: what it restores runs at once. */
export function planBinaryRestore(call: BinaryRestore): Plan {
  const plan = new PlanBuilder();
  mountRootfs(plan, call);
  plan.add("park", {}, "StartContainer");
  const options = [
    "--detach",
    "--bundle",
    call.bundle,
    "--pid-file",
    call.pidFile,
    "--image-path",
    call.images,
    "--work-path",
    call.work,
    ...(call.consoleSocket === undefined ? [] : ["--console-socket", call.consoleSocket]),
  ];
  addCommand(plan, call, runtimeCommand(call, "restore", ...options, call.id), call);
  return plan.plan();
}

export function planBinaryExec(call: BinaryExec): Plan {
  const plan = new PlanBuilder();
  const options = ["--process", call.process, "--pid-file", call.pidFile, "--detach"];
  if (call.consoleSocket !== undefined) options.push("--console-socket", call.consoleSocket);
  addCommand(plan, call, runtimeCommand(call, "exec", ...options, call.id), call);
  return plan.plan();
}

/** `process`: it leaves one behind, with the session's streams. */
function addCommand(
  plan: PlanBuilder,
  { env }: BinaryCall,
  argv: readonly string[],
  process?: Pick<ProcessCall, "pidFile" | "consoleSocket">,
): void {
  plan.add(
    "runtime",
    {
      argv,
      env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
      stdio: process === undefined ? 0 : 1,
      pidFile: process?.pidFile ?? "",
      consoleSocket: process?.consoleSocket ?? "",
    },
    "the runtime handler's BinaryName",
  );
}
