/** What every command of `cdi` works with. */
import { fileURLToPath } from "node:url";
import { DEFAULT_SPEC_DIRS, type SpecValidator } from "../files.ts";
import { loadSchema } from "../json-schema.ts";
import { Registry } from "../registry.ts";

export interface Io {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  readonly stdin: AsyncIterable<Buffer | string>;
}

/** Ends the command with exit status 1 and, but for an empty one, this message. */
export class Failure extends Error {
  override readonly name = "Failure";
}

export interface GlobalOptions {
  readonly specDirs: readonly string[];
  readonly schema: string;
}

export class CommandContext {
  readonly io: Io;
  readonly #options: () => GlobalOptions;

  constructor(io: Io, options: () => GlobalOptions) {
    this.io = io;
    this.#options = options;
  }

  print(text: string): void {
    this.io.stdout.write(text);
  }

  async registry(onChange?: (registry: Registry) => void): Promise<Registry> {
    const { specDirs, schema } = this.#options();
    return await Registry.open({
      dirs: specDirs.length > 0 ? specDirs : DEFAULT_SPEC_DIRS,
      validator: validatorOf(schema),
      onChange,
    });
  }
}

/** "builtin" and "none" ask for nothing more: what the built-in schema says is part of what every file is checked for. */
function validatorOf(schema: string): SpecValidator | undefined {
  const source = schema.trim();
  if (source === "" || source === "none" || source === "builtin") return undefined;
  if (/^https?:/.test(source))
    throw new Failure(`failed to load JSON schema ${source}: it is not fetched from the network; give a file of it`);
  const check = schemaOf(source.startsWith("file://") ? fileURLToPath(source) : source);
  return (spec) => {
    const problems = check(spec);
    if (problems.length > 0)
      throw new Error(
        `Spec validation failed: jsonschema validation failed with '${source}'\n- ${problems.join("\n- ")}`,
      );
  };
}

function schemaOf(file: string): (value: unknown) => string[] {
  try {
    return loadSchema(file);
  } catch (error) {
    throw new Failure(`failed to load JSON schema ${file}: ${(error as Error).message}`, { cause: error });
  }
}
