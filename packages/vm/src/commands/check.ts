/** berth-vm check: whether pods can be virtual machines here; every reason why not, at once. */
import type { Command } from "commander";
import { VmError } from "../errors.ts";
import { hypervisorProgram, virtiofsdOf } from "../hypervisor/drivers.ts";
import { findAcceleratorOf, guestFilesOf } from "../sandbox/files.ts";
import type { Context } from "./context.ts";
import { withHand } from "./node.ts";

export interface CheckOptions {
  readonly verbose?: boolean;
  readonly strict?: boolean;
  readonly networkChecks: boolean;
  readonly checkVersionOnly?: boolean;
  readonly onlyListReleases?: boolean;
  readonly includeAllReleases?: boolean;
}

export function addCheck(command: Command, context: Context): void {
  command
    .command("check")
    .alias("kata-check")
    .description("tell whether pods can be virtual machines on this node")
    .option("--check-version-only", "only compare this version with the latest one")
    .option("--include-all-releases", "don't filter out pre-releases")
    .option("-n, --no-network-checks", "ask nothing of a network, which is never done here")
    .option("--only-list-releases", "only list newer releases")
    .option("-s, --strict", "a machine without hardware acceleration is a failure")
    .option("-v, --verbose", "say what was found too")
    .action(async (options: CheckOptions) => await check(context, options));
}

async function check(context: Context, options: CheckOptions): Promise<void> {
  const asksReleases = options.checkVersionOnly === true || options.onlyListReleases === true;
  if (asksReleases) {
    // As kata-runtime: what is only about the network is nothing without it.
    if (!options.networkChecks || context.io.env["KATA_CHECK_NO_NETWORK"] !== undefined) return;
    throw new VmError(
      "Unsupported",
      "releases of berth are its package manager's to list; nothing is asked of a network here",
    );
  }
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
