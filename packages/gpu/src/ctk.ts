/** The `berth-ctk` command. */
import { ctk } from "./ctk/program.ts";

process.exitCode = await ctk(process.argv.slice(2), process);
