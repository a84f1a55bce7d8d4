/** From a command's exit code to the process's end, for `berth` and for `crictl`. */

/**
 * A reader that has seen enough, as in `berth ps | head`, ends the program as it would end any: with SIGPIPE's exit code,
 * `brokenPipe`. A command with something to undo first listens for itself.
 */
export async function endProcess(brokenPipe: number, run: () => Promise<number>): Promise<never> {
  let onBrokenPipe = brokenPipe;
  for (const output of [process.stdout, process.stderr]) {
    output.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") throw error;
      if (output.listenerCount("error") === 1) process.exit(onBrokenPipe);
    });
  }
  const code = await run();
  // What it has seen to the end already says more than that nobody listens.
  onBrokenPipe = code;
  // Waiting for open handles would mean waiting for stdin; output alone has to be out.
  await Promise.all([flushed(process.stdout), flushed(process.stderr)]);
  process.exit(code);
}

function flushed(output: NodeJS.WriteStream): Promise<void> {
  if (output.destroyed) return Promise.resolve();
  const { promise, resolve } = Promise.withResolvers<void>();
  // Called when everything before it is out, or cannot be any more.
  output.write("", () => resolve());
  return promise;
}
