/** Addresses of network devices that nobody has given one. */
import { randomBytes } from "node:crypto";

/** Of nobody's: administered here, and no group's. */
export function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}
