import type { CommandSpec } from "../command.ts";
import { CrictlError, EMPTY_ID, wrap } from "../errors.ts";
import { bool } from "../flags.ts";
import { join, TRANSPORT_FLAGS } from "../transport.ts";

export const attach: CommandSpec = {
  name: "attach",
  usage: "Attach to a running container",
  argsUsage: "CONTAINER-ID",
  shortOptions: true,
  flags: [
    bool("tty", "Allocate a pseudo-TTY", { aliases: ["t"] }),
    bool("stdin", "Keep STDIN open", { aliases: ["i"] }),
    ...TRANSPORT_FLAGS,
  ],
  async run(context) {
    const { flags } = context;
    const [containerId = ""] = flags.args;
    if (containerId === "") throw new CrictlError(EMPTY_ID);
    if (flags.args.length !== 1) return context.help();
    const [stdin, tty] = [flags.bool("stdin"), flags.bool("tty")];
    const runtime = await context.runtime();
    await wrap("attaching running container failed", async () => {
      const { url } = await runtime.attach({ containerId, tty, stdin, stdout: true, stderr: !tty });
      await join(context, { url, stdin, tty });
    });
  },
};
