/** Signals by name and number (signal(7), the x86 and arm numbering). */
import { constants } from "node:os";

const NAMES: ReadonlyMap<string, number> = new Map<string, number>([
  ...Object.entries(constants.signals).map(([name, number]): [string, number] => [name.slice("SIG".length), number]),
  ["RTMIN", 34],
  ["RTMAX", 64],
]);

/** Highest signal number (SIGRTMAX). */
export const SIGNAL_MAX = 64;

/**
 * The number of a signal given as "15", "TERM", "SIGTERM", "sigterm" or "RTMIN+3" (as image configurations and command
 * lines write it); undefined if there is none such.
 */
export function parseSignal(text: string): number | undefined {
  if (/^\d+$/.test(text)) {
    const number = Number(text);
    return number >= 1 && number <= SIGNAL_MAX ? number : undefined;
  }
  const match = /^(?:SIG)?([A-Z0-9]+?)(?:([+-])(\d+))?$/.exec(text.toUpperCase());
  const base = match?.[1] === undefined ? undefined : NAMES.get(match[1]);
  if (base === undefined || match?.[3] === undefined) return base;
  if (match[1] !== "RTMIN" && match[1] !== "RTMAX") return undefined;
  const number = match[2] === "+" ? base + Number(match[3]) : base - Number(match[3]);
  return number >= 34 && number <= SIGNAL_MAX ? number : undefined;
}

/** "SIGTERM" for 15; "SIGRTMIN+n" for the real-time ones; the number itself where it has no name. */
export function signalName(number: number): string {
  for (const [name, value] of Object.entries(constants.signals))
    if (value === number && name !== "SIGIOT" && name !== "SIGPOLL") return name;
  if (number >= 34 && number <= SIGNAL_MAX) return number === 34 ? "SIGRTMIN" : `SIGRTMIN+${number - 34}`;
  return String(number);
}
