/** virtiofsd: serves a machine's share. It ends when its hypervisor does. */
import type { VmSettings } from "../configuration/settings.ts";
import { virtiofsdOf } from "../hypervisor/drivers.ts";
import { shareServed, type ShareServer, virtiofsSocket, type VmHost } from "./host.ts";
import { startListener, type ProgramPlace } from "./programs.ts";

/** Kata's words, by the daemon's older options, which its younger one takes too. */
const CACHES: Readonly<Record<string, string>> = { never: "none", metadata: "auto" };

export function virtiofsdArguments(settings: VmSettings, machine: string, server: ShareServer = "virtiofsd"): string[] {
  const {
    virtio_fs_cache: cache,
    virtio_fs_extra_args: extra,
    virtio_fs_inode_file_handles: handles,
  } = settings.hypervisor;
  const options = [
    `source=${shareServed(machine)}`,
    `cache=${server === "roots" ? "always" : (CACHES[cache] ?? cache)}`,
    "sandbox=namespace",
    "xattr",
    "announce_submounts",
  ];
  return [
    virtiofsdOf(settings),
    `--socket-path=${virtiofsSocket(machine, server)}`,
    ...options.flatMap((option) => ["-o", option]),
    ...(handles === "" ? [] : [`--inode-file-handles=${handles}`]),
    ...extra,
  ];
}

/** Returns when it listens: a hypervisor does not wait for it. */
export async function startVirtiofsd(
  vm: VmHost,
  machine: string,
  server: ShareServer,
  settings: VmSettings,
  place: ProgramPlace,
  signal: AbortSignal | undefined,
): Promise<void> {
  const program = { argv: virtiofsdArguments(settings, machine, server), env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] };
  await startListener(vm, machine, server, program, place, virtiofsSocket(machine, server), signal);
}
