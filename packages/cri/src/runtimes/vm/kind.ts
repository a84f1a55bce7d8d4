/** Handlers of runtime_type io.containerd.berth-vm.v1: each pod a virtual machine. */
import { readdir } from "node:fs/promises";
import { standInOom } from "@berth/vm/stand-in";
import { containerDir, machinesDir } from "../../context.ts";
import { precondition, unimplemented } from "../../errors.ts";
import type { RuntimeKind } from "../kind.ts";
import type { VmOptions } from "./machines.ts";
import type { MachinesKind } from "./machines-kind.ts";

export const VM_TYPE = "io.containerd.berth-vm.v1";

const NO_DUMP = "a container in a virtual machine cannot be checkpointed";

export interface VmKind extends RuntimeKind, AsyncDisposable {}

/** What it takes is loaded with the first such pod: most nodes have none, and its code is a tenth of berthd's memory. */
export function vmKind(options: VmOptions): VmKind {
  let loading: Promise<MachinesKind> | undefined;
  const load = (): Promise<MachinesKind> =>
    (loading ??= import("./machines-kind.ts").then(({ machinesKind }) => machinesKind(options)));
  return {
    name: "vm",
    ownsPods: true,
    leavesHooks: false,
    subreaper: false,
    noDump: NO_DUMP,
    serves: ({ type, path }) => type === VM_TYPE && path === undefined,
    // By the host's mounts of what it shares.
    features: ({ host }) =>
      Promise.resolve({ recursiveReadOnlyMounts: host.features.mountSetattr, userNamespaces: false }),
    recordOf: () => Promise.resolve({ runtime: "vm" }),
    adapt: (_context, spec) => spec,
    oom: (context, { id }) => standInOom(containerDir(context, id)),
    made: () => Promise.resolve(),
    pidOf: (_context, _record, { pid }) => Promise.resolve(pid),
    dump: () => Promise.reject(unimplemented(NO_DUMP)),
    programOf: () => "berth-vm",
    explain: (_context, { record }) => {
      throw precondition(`container "${record.id}" was made in its pod's virtual machine`);
    },
    recover: async (context) => {
      // With no machine, and nothing left of one, nothing is looked at.
      if ((await readdir(machinesDir(context))).length > 0) await (await load()).recover(context);
    },
    check: async (...all) => await (await load()).check(...all),
    startPod: async (...all) => await (await load()).startPod(...all),
    ensureInit: async (...all) => await (await load()).ensureInit(...all),
    releasePod: async (...all) => await (await load()).releasePod(...all),
    adoptPod: async (...all) => await (await load()).adoptPod(...all),
    dial: async (...all) => await (await load()).dial(...all),
    plan: async (...all) => await (await load()).plan(...all),
    told: async (...all) => await (await load()).told(...all),
    signal: async (...all) => await (await load()).signal(...all),
    kill: async (...all) => await (await load()).kill(...all),
    release: async (...all) => await (await load()).release(...all),
    exec: async (...all) => await (await load()).exec(...all),
    update: async (...all) => await (await load()).update(...all),
    stats: async (...all) => await (await load()).stats(...all),
    detail: async (...all) => await (await load()).detail(...all),
    [Symbol.asyncDispose]: async () => await (await loading)?.[Symbol.asyncDispose](),
  };
}
