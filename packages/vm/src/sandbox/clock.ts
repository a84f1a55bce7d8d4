/** What a guest cannot find out of its clock by itself. */
import type { Hand } from "@berth/kernel";
import type { VmSettings } from "../configuration/settings.ts";
import type { Accelerator } from "../hypervisor/drivers.ts";

const PARAMETER = "tsc_early_khz=";

/**
 * Parameters for its kernel. Under TCG the time stamp counter is the host's, and QEMU's microvm has nothing to measure it by: its timer
 * is without the port that Linux reads it through (0x61, the speaker's), and it has neither HPET nor ACPI's timer.
 */
export async function clockParameters(
  hand: Hand,
  { name, hypervisor }: VmSettings,
  accelerator: Accelerator,
): Promise<string[]> {
  if (name !== "qemu" || hypervisor.machine_type !== "microvm" || accelerator === "kvm") return [];
  if (hypervisor.kernel_params.includes(PARAMETER)) return [];
  const outputs = await hand.run({ orders: [{ order: "tsc_rate", args: {} }] });
  return [`${PARAMETER}${Buffer.from(outputs.get(0) ?? []).readBigUInt64LE()}`];
}
