/**
 * What `nvidia-container-cli configure` does, where that is not installed: the driver's files and device nodes are bound
 * into a container that is being made, before its root is its own, and its device rules let it use them.
 */
import { readFileSync } from "node:fs";
import type { CdiHook, CdiMount, ContainerEdits, DeviceNode } from "@berth/cdi/injection";
import { CLONE, type Hand, MOUNT_ATTR, MS, NO_SLOT, O, type Order, probeHost, updateResources } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { withHand } from "../hand.ts";
import { checkRequirements, type Maker, makerOf, makeSpec } from "../runtime/make.ts";
import type { ToolkitConfig } from "../toolkit/config.ts";
import type { Request } from "../toolkit/request.ts";
import type { Target } from "./arguments.ts";
import { besideEdits, loadDriver } from "./beside.ts";
import { isWanted } from "./parts.ts";

const PID_SLOT = 0;
const ROOT_SLOT = 1;
const FIRST_SLOT = 2;

export interface Injection {
  readonly spec: oci.Spec;
  readonly request: Request;
  readonly devices: readonly string[];
  readonly config: ToolkitConfig;
  readonly target: Target;
  readonly capabilities: readonly string[];
}

/** Throws Error, NvmlError and OrderError: the runtime then gives the container up. */
export async function inject(injection: Injection): Promise<void> {
  const { request, devices, config, target } = injection;
  const maker = compatMaker(config);
  await loadDriver(config, maker.driverRoot, (message) => process.stderr.write(`${message}\n`));
  checkRequirements(request.requirements(), maker.driverRoot);
  const spec = makeSpec(
    "auto",
    devices.map((name) => name || "none"),
    maker,
  );
  const own = [spec.containerEdits ?? {}, ...spec.devices.map(({ containerEdits }) => containerEdits)];
  await withHand(async (hand) => {
    const edits = [...own, ...(await besideEdits(hand, injection, maker))];
    if (!config.get("nvidia-container-cli.no-cgroups")) await allowNodes(hand, injection.spec, edits, target.pid);
    await hand.run({ orders: bindings(edits, injection.capabilities, target) });
    for (const hook of edits.flatMap(({ hooks = [] }) => hooks)) await runHook(hand, hook, target);
  });
}

/** Newer CUDA libraries of the image are used by the linker's cache, unless that is turned off, or the runtime's hook does it. */
function compatMaker(config: ToolkitConfig): Maker {
  const maker = makerOf(config, process.env["PATH"]);
  const mode = config.get("nvidia-container-runtime.modes.legacy.cuda-compat-mode");
  const isOff = mode === "disabled" || mode === "hook";
  return isOff ? { ...maker, disabledHooks: [...maker.disabledHooks, "enable-cuda-compat"] } : maker;
}

/** The container's own rules again, with those of the nodes behind them: a v2 program holds all of them or none. */
async function allowNodes(hand: Hand, spec: oci.Spec, edits: readonly ContainerEdits[], pid: number): Promise<void> {
  const cgroup = devicesCgroup(readFileSync(`/proc/${pid}/cgroup`, "utf8"));
  const rules = (spec.linux?.resources?.devices ?? []).concat(
    edits
      .flatMap(({ deviceNodes = [] }) => deviceNodes)
      .map((node) => ({
        allow: true,
        type: "c",
        major: node.major ?? 0,
        minor: node.minor ?? 0,
        access: "rw",
      })),
  );
  await hand.run(updateResources(cgroup, { devices: rules }, await probeHost()));
}

/** v1's hierarchy of devices where there is one, else cgroup v2. */
export function devicesCgroup(text: string): string {
  const lines = text.split("\n").map((line) => line.split(/:([^:]*):(.*)/s));
  const own =
    lines.find(([, controllers]) => controllers?.split(",").includes("devices")) ?? lines.find(([id]) => id === "0");
  const path = own?.[2];
  if (path === undefined || path === "/")
    throw new Error(
      "the container is in no device cgroup of its own: set nvidia-container-cli.no-cgroups if that is meant",
    );
  return path;
}

/** Everything of the host is opened before the container's mount namespace is joined; everything of the container's is resolved inside its root. */
function bindings(edits: readonly ContainerEdits[], capabilities: readonly string[], { pid, rootfs }: Target): Order[] {
  const files = edits
    .flatMap(({ mounts = [] }) => mounts)
    .filter(({ containerPath }) => isWanted(containerPath, capabilities));
  const nodes = edits.flatMap(({ deviceNodes = [] }) => deviceNodes);
  const binds = [...files.map(fileBind), ...nodes.map(nodeBind)];
  const because = "NVIDIA_VISIBLE_DEVICES";
  const opened = binds.flatMap(({ source, attributes, recursive }, index): Order[] => {
    const slot = FIRST_SLOT + index;
    const attr = { slot, set: attributes, clear: 0n, propagation: MS.PRIVATE, recursive, usernsSlot: NO_SLOT };
    return [
      { order: "open_tree", args: { slot, path: source, recursive }, because },
      { order: "mount_attr", args: attr, because },
    ];
  });
  const attached = binds.map(({ target }, index): Order => {
    const args = { slot: FIRST_SLOT + index, root: ROOT_SLOT, target, create: 3, strict: 0 };
    return { order: "move_mount", args, because };
  });
  return [
    ...opened,
    { order: "pidfd", args: { slot: PID_SLOT, pid }, because },
    { order: "setns", args: { slot: PID_SLOT, type: CLONE.NEWNS }, because },
    { order: "open", args: { slot: ROOT_SLOT, path: rootfs, flags: BigInt(O.PATH | O.DIRECTORY) }, because },
    ...attached,
  ];
}

interface Bind {
  readonly source: string;
  readonly target: string;
  readonly attributes: bigint;
  readonly recursive: number;
}

function fileBind({ hostPath, containerPath, options = [] }: CdiMount): Bind {
  const attributes = [
    options.includes("ro") ? MOUNT_ATTR.RDONLY : 0n,
    options.includes("noexec") ? MOUNT_ATTR.NOEXEC : 0n,
    MOUNT_ATTR.NOSUID,
    MOUNT_ATTR.NODEV,
  ].reduce((all, one) => all | one, 0n);
  return { source: hostPath, target: containerPath, attributes, recursive: 1 };
}

function nodeBind({ path, hostPath }: DeviceNode): Bind {
  return { source: hostPath ?? path, target: path, attributes: MOUNT_ATTR.NOSUID | MOUNT_ATTR.NOEXEC, recursive: 0 };
}

/** In the container's mount namespace, where its root is not yet the root; the program is the host's. */
async function runHook(hand: Hand, { path, args = [], env = [] }: CdiHook, { pid, rootfs }: Target): Promise<void> {
  const { status, stderr } = await hand.spawn({
    argv: ["/usr/bin/nsenter", "-t", `${pid}`, "-m", path, ...args.slice(1)],
    env: Object.fromEntries([
      ["PATH", "/usr/sbin:/usr/bin:/sbin:/bin"],
      ...env.map((entry) => entry.split(/=(.*)/s, 2)),
    ]) as Record<string, string>,
    stdin: Buffer.from(JSON.stringify({ ociVersion: "1.0.2", pid, root: rootfs, bundle: rootfs })),
  });
  if (status !== 0)
    throw new Error(`${args.join(" ")}: ${Buffer.from(stderr).toString("utf8").trim() || `status ${status}`}`);
}
