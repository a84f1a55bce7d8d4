/** `--stop-signal`: a name or number, as the CRI's enumeration has them. */
import { constants } from "node:os";
import { cri } from "@berth/spec";
import { Failure } from "../failure.ts";

/** "TERM", "SIGTERM", "15", "RTMIN+3". */
export function parseStopSignal(text: string): cri.Signal {
  const name = /^\d+$/.test(text) ? nameOf(Number(text)) : text.toUpperCase().replace(/^SIG/, "");
  const key = `SIG${name}`.replace("+", "PLUS").replace("-", "MINUS");
  const signal = Object.hasOwn(cri.Signal, key) ? cri.Signal[key as keyof typeof cri.Signal] : undefined;
  if (signal === undefined) throw new Failure(`--stop-signal: "${text}" is not a signal, as in TERM, SIGQUIT or 15`);
  return signal;
}

const REAL_TIME_FIRST = 34;
const REAL_TIME_LAST = 64;
const REAL_TIME_MIDDLE = 49;

function nameOf(number: number): string {
  if (number === REAL_TIME_FIRST) return "RTMIN";
  if (number === REAL_TIME_LAST) return "RTMAX";
  if (number > REAL_TIME_FIRST && number <= REAL_TIME_MIDDLE) return `RTMIN+${number - REAL_TIME_FIRST}`;
  if (number > REAL_TIME_MIDDLE && number < REAL_TIME_LAST) return `RTMAX-${REAL_TIME_LAST - number}`;
  const name = Object.entries(constants.signals).find(([, value]) => value === number)?.[0];
  return name?.replace(/^SIG/, "") ?? "";
}
