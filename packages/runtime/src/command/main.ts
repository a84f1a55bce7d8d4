/** `berth-runc`: what `bin/berth-runc` does not answer by itself, under `bosun runc`. Loads only what the command needs: every millisecond is the caller's. */
import { main } from "./run.ts";

await main(process.argv.slice(2));
