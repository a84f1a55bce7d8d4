/** `berthd config default|dump|migrate|check`. */
import type { Invocation } from "../options.ts";
import { checkDocument, describe } from "./check.ts";
import { ConfigError } from "./document.ts";
import { loadDocument } from "./load.ts";
import { settingsOf } from "./settings.ts";
import { defaults, dump, migrate } from "./write.ts";

export interface Output {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
}

/** Exit status: 0, or 1 where the configuration cannot be used (check --strict: or asks for what it does not get). */
export async function configCommand({ flags, config }: Invocation, { out, err }: Output): Promise<number> {
  if (config === undefined) throw new TypeError("no config command");
  if (config.verb === "default") {
    out(defaults(config.version));
    return 0;
  }
  try {
    const document = await loadDocument(flags);
    if (config.verb === "dump") out(dump(document, config.version));
    if (config.verb === "migrate") out(migrate(document, config.version));
    if (config.verb !== "check") return 0;
    const problems = checkDocument(document);
    for (const problem of problems) out(`${describe(problem)}\n`);
    if (problems.some(({ severity }) => severity === "error")) return 1;
    settingsOf(document, flags, "");
    const warnings = problems.filter(({ severity }) => severity === "warning").length;
    const files = document.files.length === 0 ? "no configuration file" : document.files.join(", ");
    out(
      `${files}: ${warnings === 0 ? "every setting is in force" : `${warnings} of what is asked for is not in force`}\n`,
    );
    return config.strict && warnings > 0 ? 1 : 0;
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    if (!(error instanceof ConfigError) && code !== "ENOENT" && code !== "EACCES" && code !== "EISDIR") throw error;
    err(`berthd: ${error instanceof ConfigError ? error.message : `cannot read ${path ?? flags.config}: ${code}`}\n`);
    return 1;
  }
}
