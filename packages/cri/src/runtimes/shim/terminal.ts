/** A terminal's size before its client has told one: a process that asks at once gets no 0. */
import type { oci } from "@berth/spec";

const FIRST_SIZE = { height: 24, width: 80 };

export const sized = (process: oci.Process): oci.Process =>
  process.terminal === true ? { ...process, consoleSize: FIRST_SIZE } : process;
