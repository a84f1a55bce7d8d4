/** vsock of the host's kernel (vhost-vsock): hypervisors without a hybrid one of their own. */
import { type Machine, VSOCK_PORT } from "./machine.ts";

/** Contexts below are the hypervisor's, the loopback's and the host's. */
const FIRST_CONTEXT = 3;

/** Of vsock, whose ids the whole host shares: out of the machine's own id, which is random. */
export function contextId({ id }: Pick<Machine, "id">): number {
  // FNV-1a, 32 bits.
  let hash = 0x81_1c_9d_c5;
  for (const byte of Buffer.from(id)) hash = Math.imul(hash ^ byte, 0x01_00_01_93) >>> 0;
  return FIRST_CONTEXT + (hash % (0xff_ff_ff_ff - FIRST_CONTEXT));
}

/** As `bosun relay` has it. */
export const vsockChannel = (machine: Pick<Machine, "id">): string => `vsock:${contextId(machine)}:${VSOCK_PORT}`;
