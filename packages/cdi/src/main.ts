/** The `cdi` command. */
import { cdi } from "./program.ts";

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(141);
});
process.exitCode = await cdi(process.argv.slice(2), process);
