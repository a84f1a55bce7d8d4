/** `berth-runc`: what `bin/berth-runc` does not answer by itself, under `bosun runc`. Loads only what the command needs: every millisecond is the caller's. */
import { run } from "./run.ts";

process.exitCode = await run(process.argv.slice(2));
