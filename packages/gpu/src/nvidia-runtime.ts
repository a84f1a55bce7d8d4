/** The part of `berth-nvidia-runtime` that takes Node. */
import { nvidiaRuntime } from "./runtime/command.ts";

process.exitCode = await nvidiaRuntime(process.argv.slice(2), process);
