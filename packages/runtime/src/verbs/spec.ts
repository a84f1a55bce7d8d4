/** spec: runc's example configuration, to start a bundle from. */
import { existsSync, writeFileSync } from "node:fs";
import type { Command } from "../command/context.ts";
import { CommandError } from "../command/failure.ts";
import { exampleSpec } from "../command/example-spec.ts";

export const command: Command = {
  run({ flags }) {
    if (flags.text("bundle") !== "") process.chdir(flags.text("bundle"));
    const file = "config.json";
    if (existsSync(file)) throw new CommandError("File config.json exists. Remove it first");
    const uid = process.geteuid?.() ?? 0;
    const gid = process.getegid?.() ?? 0;
    const spec = exampleSpec(flags.boolean("rootless") ? { uid, gid } : undefined);
    writeFileSync(file, JSON.stringify(spec, null, "\t"), { mode: 0o666 });
    return 0;
  },
};
