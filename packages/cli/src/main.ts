/** The `berth` command. */
import { EXIT } from "./failure.ts";
import { berth } from "./program.ts";
import { processShell } from "./shell.ts";

// A reader that has seen enough, as in `berth ps | head`, ends berth as it would end any program: with SIGPIPE's exit code.
// A command with something to undo first listens for itself.
for (const output of [process.stdout, process.stderr]) {
  output.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    if (output.listenerCount("error") === 1) process.exit(EXIT.brokenPipe);
  });
}

const code = await berth(process.argv.slice(2), processShell());
// Waiting for open handles would mean waiting for stdin; output alone has to be out.
await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
process.exit(code);

function flushed(output: NodeJS.WriteStream): Promise<void> {
  if (!output.writableNeedDrain || output.destroyed) return Promise.resolve();
  const { promise, resolve } = Promise.withResolvers<void>();
  output.once("drain", resolve).once("close", resolve);
  return promise;
}
