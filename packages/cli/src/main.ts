/** The `berth` command. */
import { EXIT } from "./failure.ts";
import { endProcess } from "./process.ts";
import { berth } from "./program.ts";
import { processShell } from "./shell.ts";

await endProcess(EXIT.brokenPipe, () => berth(process.argv.slice(2), processShell()));
