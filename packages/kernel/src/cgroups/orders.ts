/** What the controllers' files have in common: the shape of their answer, and the order that writes a cgroup file. */
import { join } from "node:path";
import type { Order } from "../orders/plan.ts";

export interface Settings {
  readonly orders: readonly Order[];
  /** For a person: what was asked for that this machine or cgroup version does not have. */
  readonly warnings: readonly string[];
}

export const NOTHING: Settings = { orders: [], warnings: [] };

/** A limit that no cgroup can have; `field` is its path in the OCI configuration. */
export class ResourceError extends Error {
  override readonly name = "ResourceError";
  readonly field: string;
  constructor(field: string, message: string) {
    super(`${field}: ${message}`);
    this.field = field;
  }
}

export function writeOrder(directory: string, file: string, value: string | number | bigint, because: string): Order {
  return { order: "write_file", args: { path: join(directory, file), data: Buffer.from(String(value)) }, because };
}

export function settings(orders: readonly Order[], warnings: readonly string[] = []): Settings {
  return { orders, warnings };
}

export function merge(parts: readonly Settings[]): Settings {
  return { orders: parts.flatMap((part) => part.orders), warnings: parts.flatMap((part) => part.warnings) };
}

/** The warning for a resource whose controller the machine has not mounted or enabled. */
export function unavailable(controller: string, field: string): Settings {
  return settings([], [`${field}: not applied: this machine has no ${controller} cgroup controller`]);
}
