/** The kernel package's signal names, without the rest of it. */
export { parseSignal } from "@berth/kernel";
