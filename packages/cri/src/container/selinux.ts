/** SELinux: berth sets no labels. Where the node has no SELinux there is nothing to label, and the options are without effect, as with containerd. */
import type { cri } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";

export function refuseSelinux({ host }: CriContext, options: cri.SELinuxOption | undefined, field: string): void {
  if (!host.selinux || !options) return;
  if (options.user + options.role + options.type + options.level === "") return;
  throw precondition(`${field}: SELinux is enabled on this node, and this version of berth sets no labels`);
}

export function refuseRelabel({ host }: CriContext, mounts: readonly cri.Mount[]): void {
  const index = mounts.findIndex((mount) => mount.selinuxRelabel);
  if (!host.selinux || index < 0) return;
  throw precondition(
    `config.mounts[${index}].selinux_relabel: SELinux is enabled on this node, and this version of berth sets no labels; label it with chcon(1)`,
  );
}
