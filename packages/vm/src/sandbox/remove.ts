/** Machines and their programs, ended and taken away. */
import { killCgroup } from "@berth/kernel";
import { cgroupRemoval } from "@berth/runtime";
import { machineDirectory, programDirectory, PROGRAMS, virtiofsSocket, type VmHost } from "./host.ts";
import { readState } from "./launch.ts";
import { endProgram } from "./programs.ts";
import { shareRemoval } from "./share.ts";

/** So that others can be started in their place. */
export async function endPrograms(vm: VmHost, directory: string): Promise<void> {
  for (const name of PROGRAMS) await endProgram(directory, name);
  const paths = [
    ...PROGRAMS.map((name) => programDirectory(directory, name)),
    virtiofsSocket(directory),
    virtiofsSocket(directory, "roots"),
  ];
  await vm.hand.run({ orders: paths.map((path) => ({ order: "remove_tree", args: { path } })) });
}

/** Everything that startMachine and startIdle make, however far they came; idempotent. */
export async function removeMachine(vm: VmHost, id: string): Promise<void> {
  const directory = machineDirectory(vm, id);
  const state = await readState(directory);
  for (const name of PROGRAMS) await endProgram(directory, name);
  for (const cgroup of [state?.cgroup, state?.formerCgroup].filter((path) => path !== undefined)) {
    // virtiofsd is two processes, of which its monitor knows one.
    await killCgroup(cgroup, vm.host);
    await vm.hand.run(cgroupRemoval(cgroup, vm.host));
  }
  // What is known of it goes last: who is interrupted here begins anew.
  await vm.hand.run({ orders: [...shareRemoval(directory), { order: "remove_tree", args: { path: directory } }] });
}
