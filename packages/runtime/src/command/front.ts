/** The kernel package's way to bosun, without the rest of it; loaded when it is needed: half of the commands do without. */
export { Front } from "@berth/kernel";
