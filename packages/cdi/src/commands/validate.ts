/** validate: what is wrong in the directories; exit status 1 when something is. */
import { type CommandContext, Failure } from "./context.ts";

export async function validate(context: CommandContext): Promise<void> {
  // Watched, because a directory that cannot be watched is one of the things to be told.
  const registry = await context.registry(() => {});
  try {
    const all = [...registry.errors, ...[...registry.dirErrors].map(([dir, error]) => [dir, [error]] as const)];
    if (all.length === 0) {
      context.print("No CDI cache errors.\n");
      return;
    }
    const files = all.map(([path, errors]) => {
      const lines = errors.map((error, index) => `  ${String(index).padStart(2)}: ${error.message}\n`);
      return `Spec file ${path}:\n${lines.join("")}`;
    });
    context.print(`CDI cache has errors:\n${files.join("")}`);
  } finally {
    registry.close();
  }
  throw new Failure("");
}
