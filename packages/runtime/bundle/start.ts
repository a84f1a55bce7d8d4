/** As `src/command/main.ts`, of the bundle. */
import { loadBundle } from "./load.ts";

void loadBundle(import.meta.dirname, require)
  .run(process.argv.slice(2))
  .then((status) => {
    process.exitCode = status;
  });
