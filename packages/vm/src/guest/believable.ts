/** Numbers that a guest has told: whoever passes them on has 64 bits for each, and fails for all pods where one has more. */
import { VmError } from "../errors.ts";

const MOST = 1n << 64n;

/** Throws VmError Guest naming the first that cannot be. */
export function believable<T>(told: T, path = ""): T {
  if (typeof told === "bigint" && (told < 0n || told >= MOST))
    throw new VmError("Guest", `the guest tells a number that cannot be${path}: ${String(told).slice(0, SHOWN)}`);
  if (typeof told === "object" && told !== null)
    for (const [key, value] of Object.entries(told)) believable(value, `${path === "" ? " as " : `${path}.`}${key}`);
  return told;
}

const SHOWN = 40;
