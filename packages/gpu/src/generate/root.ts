/** A specification whose host (or container) paths are below another root: for drivers that are seen elsewhere than they are. */
import type { CdiHook, CdiMount, CdiSpec, ContainerEdits, DeviceNode } from "@berth/cdi/injection";

export type Side = "host" | "container";

export function withRoot(spec: CdiSpec, side: Side, from: string, to: string): CdiSpec {
  const move = (path: string): string => movedPath(path, from, to);
  const edited = (edits: ContainerEdits): ContainerEdits =>
    side === "host" ? onHost(edits, move) : inContainer(edits, move);
  return {
    ...spec,
    devices: spec.devices.map((device) => ({ ...device, containerEdits: edited(device.containerEdits) })),
    ...(spec.containerEdits && { containerEdits: edited(spec.containerEdits) }),
  };
}

/** Whole components only: /driver is no root of /drivers. */
function movedPath(path: string, from: string, to: string): string {
  const root = from.replace(/\/+$/, "");
  if (path !== root && !path.startsWith(`${root}/`)) return path;
  const target = to.replace(/\/+$/, "");
  return `${target}${path.slice(root.length)}` || "/";
}

function onHost(edits: ContainerEdits, move: (path: string) => string): ContainerEdits {
  const linkMoved = (arg: string): string => arg.split("::").map(move).join("::");
  return changed(edits, {
    node: (node) => {
      const before = node.hostPath || node.path;
      const hostPath = move(before);
      if (hostPath === before) return node;
      const { hostPath: _, ...rest } = node;
      const { path, ...others } = rest;
      return hostPath === path ? rest : { path, hostPath, ...others };
    },
    mount: (mount) => ({ ...mount, hostPath: move(mount.hostPath) }),
    // A startContainer hook is the container's own program.
    hook: (hook) => {
      if (hook.hookName === "startContainer") return hook;
      const own = { ...hook, path: move(hook.path) };
      return hook.hookName === "createContainer" || !hook.args ? own : { ...own, args: hook.args.map(linkMoved) };
    },
  });
}

function inContainer(edits: ContainerEdits, move: (path: string) => string): ContainerEdits {
  return changed(edits, {
    node: (node) => ({ ...node, path: move(node.path) }),
    mount: (mount) => ({ ...mount, containerPath: move(mount.containerPath) }),
    hook: (hook) => {
      if (hook.hookName !== "createContainer" && hook.hookName !== "startContainer") return hook;
      // "target::link": both are paths of the container.
      const args = (hook.args ?? []).map((arg) => arg.split("::").map(move).join("::"));
      return {
        ...hook,
        ...(hook.hookName === "startContainer" && { path: move(hook.path) }),
        ...(hook.args && { args }),
      };
    },
  });
}

function changed(
  edits: ContainerEdits,
  by: {
    readonly node: (node: DeviceNode) => DeviceNode;
    readonly mount: (mount: CdiMount) => CdiMount;
    readonly hook: (hook: CdiHook) => CdiHook;
  },
): ContainerEdits {
  const { deviceNodes, mounts, hooks } = edits;
  return {
    ...edits,
    ...(deviceNodes && { deviceNodes: deviceNodes.map(by.node) }),
    ...(mounts && { mounts: mounts.map(by.mount) }),
    ...(hooks && { hooks: hooks.map(by.hook) }),
  };
}
