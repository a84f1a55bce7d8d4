/** berth-vm check: whether pods can be virtual machines here; every reason why not, at once. */
import { VmError } from "../errors.ts";
import { hypervisorProgram, virtiofsdOf } from "../hypervisor/drivers.ts";
import { findAcceleratorOf, guestFilesOf } from "../sandbox/files.ts";
import type { Context } from "./context.ts";
import { withHand } from "./node.ts";

export async function check(
  context: Context,
  options: { readonly verbose?: boolean; readonly strict?: boolean },
): Promise<void> {
  const settings = await context.settings();
  const problems: string[] = [];
  const found = async <T>(what: string, look: () => T | Promise<T>): Promise<T | undefined> => {
    try {
      const value = await look();
      if (options.verbose === true)
        context.print(`${what}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
      return value;
    } catch (error) {
      if (!(error instanceof VmError)) throw error;
      problems.push(error.message);
      return undefined;
    }
  };
  const program = await found("hypervisor", () => hypervisorProgram(settings));
  if (settings.hypervisor.shared_fs === "virtio-fs") await found("virtiofsd", () => virtiofsdOf(settings));
  const files = await found("guest", () => guestFilesOf({ image: context.options.image }, settings));
  if (program !== undefined && files !== undefined) {
    const { accelerator, reason } = await withHand((hand) => findAcceleratorOf({ hand }, settings, files));
    const words =
      accelerator === "kvm"
        ? "KVM accelerates virtual machines"
        : `virtual machines are emulated, which is slow: ${reason}`;
    if (accelerator === "kvm" || options.strict !== true) context.print(words);
    else problems.push(words);
  }
  for (const warning of settings.warnings) if (options.verbose === true) context.print(`warning: ${warning}`);
  if (problems.length > 0)
    throw new VmError(
      "Missing",
      `this node cannot run pods in virtual machines:\n${problems.map((problem) => `  ${problem}`).join("\n")}`,
    );
  context.print("System is capable of running pods in virtual machines");
}
