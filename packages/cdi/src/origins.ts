/** Whose edits put a part (a mount, a hook, a device) into a configuration: what fails with it later names them. */
import type { oci } from "@berth/spec";
import { type Place, placeText } from "./errors.ts";

const origins = new WeakMap<object, Place>();

export function withOrigin<T extends object>(part: T, place: Place): T {
  origins.set(part, place);
  return part;
}

/**
 * File, device and field of what is at `field` ("mounts[3].options") of a configuration that was injected into; undefined: it is
 * none of CDI's. A copy of a part has no origin.
 */
export function originAt(spec: oci.Spec, field: string): string | undefined {
  let part: unknown = spec;
  for (const step of field.matchAll(/[^.[\]]+/g)) {
    if (typeof part !== "object" || part === null) return undefined;
    part = (part as Record<string, unknown>)[step[0]];
    const place = typeof part === "object" && part !== null ? origins.get(part) : undefined;
    if (place !== undefined) return placeText(place);
  }
  return undefined;
}
