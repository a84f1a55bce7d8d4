/** Machines that are no pod's yet: being made into a template, or waiting for a pod. Named by who makes them. */
import { randomBytes } from "node:crypto";
import { isAlive } from "./processes.ts";

export type Purpose = "tpl" | "vmc";

/** "tpl-PID-…": of a process that is making one. */
const NAME = /^(tpl|vmc)-(\d+)-[0-9a-f]{4}$/;

/** Of this process: another before it may have had its number. */
const own = new Set<string>();

export function newName(purpose: Purpose): string {
  const name = `${purpose}-${process.pid}-${randomBytes(2).toString("hex")}`;
  if (own.has(name)) return newName(purpose);
  own.add(name);
  return name;
}

/** Undefined: it is a pod's. */
export function makerOf(name: string): { readonly purpose: Purpose; readonly pid: number } | undefined {
  const [, purpose, pid] = NAME.exec(name) ?? [];
  return pid === undefined ? undefined : { purpose: purpose as Purpose, pid: Number(pid) };
}

/** Its maker is gone: nobody else knows of it. */
export function isAbandoned(name: string): boolean {
  const maker = makerOf(name);
  if (!maker) return false;
  return maker.pid === process.pid ? !own.has(name) : !isAlive(maker.pid);
}
