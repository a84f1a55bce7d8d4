/** The `berth-vm` command. */
import { berthVm } from "./commands/program.ts";

process.exitCode = await berthVm(process.argv.slice(2), process);
