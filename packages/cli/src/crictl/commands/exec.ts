import type { CommandSpec, Context, Runtime } from "../command.ts";
import { CrictlError, together, wrap } from "../errors.ts";
import { bool, int, slice, string } from "../flags.ts";
import { listContainers } from "../select.ts";
import { join, tlsOf, TRANSPORT_FLAGS } from "../transport.ts";

const FILTERS = ["name", "pod", "image", "state", "label", "latest", "last"];

export const exec: CommandSpec = {
  name: "exec",
  usage: "Run a command in a running container",
  argsUsage: "[CONTAINER-ID] COMMAND [ARG...]",
  description: `The CONTAINER-ID is only required if none of the following filter flags are set:
--image, --label, --last, --latest, --name, --pod, --state`,
  shortOptions: true,
  flags: [
    bool("sync", "Run the command synchronously", { aliases: ["s"] }),
    int("timeout", "Timeout in seconds"),
    bool("tty", "Allocate a pseudo-TTY", { aliases: ["t"] }),
    bool("interactive", "Keep STDIN open", { aliases: ["i"] }),
    ...TRANSPORT_FLAGS,
    string("name", "Exec command for all containers matching this name filter regular expression pattern"),
    string("pod", "Exec command for all containers matching this pod ID filter", { aliases: ["p"] }),
    string("image", "Exec command for all containers matching this container image filter"),
    string("state", "Exec command for all containers matching this container state filter"),
    slice("label", "Exec command for all containers matching this key=value label filter"),
    bool("latest", "Exec command for the most recently created container", { aliases: ["l"] }),
    int("last", "Exec command for all last n containers, set to 0 for unlimited", { aliases: ["n"] }),
    bool("quiet", "Do not print the container ID if multiple containers are selected", { aliases: ["q"] }),
    bool("ignore-errors", "Ignore errors during command execution", { aliases: ["e"] }),
    bool("parallel", "Run the command in parallel if multiple containers are selected", { aliases: ["x"] }),
  ],
  async run(context) {
    const { flags } = context;
    if (flags.args.length < 1) return context.help();
    const runtime = await context.runtime();
    const ignore = flags.bool("ignore-errors");
    if (ignore && !flags.bool("quiet"))
      context.log(
        "warning",
        "The `--ignore-errors` option has been set all errors returned by the command will be ignored.",
      );
    const filtered = FILTERS.some((name) => flags.isSet(name));
    if (!filtered && flags.args.length < 2) return context.help();
    const ids = filtered ? await matching(context, runtime) : flags.args.slice(0, 1);
    if (ids.length === 0) {
      context.log("error", "No containers found per filter flags");
      return context.help();
    }
    tlsOf(flags);
    const cmd = filtered ? flags.args : flags.args.slice(1);
    const named = filtered && !flags.bool("quiet") && !flags.bool("parallel");
    try {
      await together(ids.map((id) => () => one(context, runtime, { id, cmd, named })));
    } catch (error) {
      if (!ignore || !(error instanceof CrictlError)) throw error;
    }
  },
};

const matching = async (context: Context, runtime: Runtime): Promise<string[]> => {
  const images = await context.images();
  return (await wrap("listing containers", () => listContainers(context, runtime, images))).map(({ id }) => id);
};

interface Execution {
  readonly id: string;
  readonly cmd: readonly string[];
  readonly named: boolean;
}

async function one(context: Context, runtime: Runtime, { id, cmd, named }: Execution): Promise<void> {
  const { flags } = context;
  if (named) context.print(`${id}:`);
  if (flags.bool("sync"))
    return wrap(`execing command in container ${id} synchronously`, () => execSync(context, runtime, id, cmd));
  const [stdin, tty] = [flags.bool("interactive"), flags.bool("tty")];
  await wrap(`execing command in container ${id}`, async () => {
    const { url } = await runtime.exec({ containerId: id, cmd: [...cmd], tty, stdin, stdout: true, stderr: !tty });
    await join(context, { url, stdin, tty });
  });
}

async function execSync(
  context: Context,
  runtime: Runtime,
  containerId: string,
  cmd: readonly string[],
): Promise<void> {
  const timeout = BigInt(context.flags.number("timeout"));
  const { stdout, stderr, exitCode } = await runtime.execSync({ containerId, cmd: [...cmd], timeout });
  // As the client library of Kubernetes words it.
  if (exitCode !== 0)
    throw new CrictlError(
      `command ${JSON.stringify(cmd.join(" "))} exited with ${exitCode}: ${Buffer.from(stderr).toString()}`,
    );
  context.shell.stdout.write(Buffer.concat([stdout, Buffer.from("\n"), stderr, Buffer.from("\n")]));
}
