/** Processes that make templates, by the numbers in what they leave behind. */
import { existsSync } from "node:fs";

/** One that has ended has no program any more, whether its parent has heard of it or not. */
export const isAlive = (pid: number | string): boolean => existsSync(`/proc/${pid}/exe`);
