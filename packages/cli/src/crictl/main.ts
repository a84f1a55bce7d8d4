/** The `crictl` command. */
import { EXIT } from "../failure.ts";
import { endProcess } from "../process.ts";
import { processShell } from "../shell.ts";
import { crictl } from "./program.ts";

await endProcess(EXIT.brokenPipe, () => crictl(process.argv.slice(2), processShell()));
