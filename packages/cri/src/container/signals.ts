/** Signals between the CRI's enumeration (which spells real-time signals "SIGRTMINPLUS3") and numbers. */
import { parseSignal } from "@berth/kernel";
import { cri } from "@berth/spec";

export const signalName = (signal: cri.Signal): string =>
  (cri.SignalSchema.value[signal]?.name ?? String(signal)).replace("PLUS", "+").replace("MINUS", "-");

const NUMBERS = new Map<number, cri.Signal>();
for (const value of Object.values(cri.Signal)) {
  if (value === cri.Signal.RUNTIME_DEFAULT) continue;
  const number = parseSignal(signalName(value));
  if (number !== undefined && !NUMBERS.has(number)) NUMBERS.set(number, value);
}

/** RUNTIME_DEFAULT for a number that the enumeration has no name for. */
export const criSignal = (number: number): cri.Signal => NUMBERS.get(number) ?? cri.Signal.RUNTIME_DEFAULT;
