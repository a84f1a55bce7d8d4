/** containerd-shim-berth-vm-v2's own part: pods in virtual machines. */
import { rm } from "node:fs/promises";
import { killCgroup, monitorEnded } from "@berth/kernel";
import { cgroupRemoval, features, readBundle } from "@berth/runtime";
import { groupOf, type Invocation } from "../server/arguments.ts";
import type { Machine } from "../server/making.ts";
import { machineId, socketPath, stateDir } from "../server/place.ts";
import { isServed } from "../server/program.ts";
import { unmountRootfs } from "../server/rootfs.ts";
import type { Parts } from "../server/serve.ts";
import { roleOf } from "./annotations.ts";
import { cgroupOf, VmMaker } from "./maker.ts";
import { dropMachine, vmHostOf } from "./machine.ts";

/** What a machine has of its own and cannot be joined from here. */
const NAMESPACES = ["cgroup", "ipc", "mount", "network", "pid", "uts"];

export const vmParts: Parts = {
  open: (machine, invocation, options) => Promise.resolve(new VmMaker(machine, machineOf(invocation), options)),
  features: () => {
    const { linux, ...own } = features() as { readonly linux: object };
    return {
      ...own,
      linux: {
        ...linux,
        namespaces: NAMESPACES,
        apparmor: { enabled: false },
        selinux: { enabled: false },
        intelRdt: { enabled: false },
        mountExtensions: { idmap: { enabled: false } },
        netDevices: { enabled: false },
      },
    };
  },
  deleteLeft,
};

const groupSocket = (invocation: Invocation): string =>
  socketPath(invocation.address, invocation.namespace, groupOf(invocation));
const machineOf = (invocation: Invocation): string => machineId(groupSocket(invocation));

async function deleteLeft(left: Pick<Machine, "hand" | "host">, invocation: Invocation): Promise<void> {
  const { hand, host } = left;
  const { address, namespace, id, bundle } = invocation;
  const spec = specOf(bundle);
  if (spec) {
    // No machine outlives its shim, nor the container that it was booted for.
    const vm = vmHostOf(left);
    if (roleOf(spec) !== "container" || !(await isServed(groupSocket(invocation))))
      await dropMachine(vm, machineOf(invocation), id);
    // Nor a template that it has not finished.
    await vm.factory?.sweep(vm);
    const cgroup = cgroupOf(spec, id);
    await killCgroup(cgroup, host);
    const dir = stateDir(address, namespace, id);
    await monitorEnded(dir);
    await hand.run(cgroupRemoval(cgroup, host));
    await rm(dir, { recursive: true, force: true });
  }
  await unmountRootfs(hand, bundle);
}

/** Undefined: there was no container. */
function specOf(bundle: string) {
  try {
    return readBundle(bundle).spec;
  } catch (error) {
    if (/does not exist/.test((error as Error).message)) return undefined;
    throw error;
  }
}
