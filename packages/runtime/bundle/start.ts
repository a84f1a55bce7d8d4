/** As `src/command/main.ts`, of the bundle. */
import { loadBundle } from "./load.ts";

void loadBundle(import.meta.dirname, require).main(process.argv.slice(2));
