import { basename, resolve } from "node:path";
import type { Command } from "commander";
import { Failure } from "../failure.ts";
import { printJson } from "../json.ts";
import { findContainer } from "../names.ts";
import type { Session } from "../session.ts";
import { warn } from "../shell.ts";
import { formatTable } from "../table.ts";

interface Line {
  readonly where: string;
  readonly order: string;
  readonly words: string;
  /** The field of the configuration that asked for it. */
  readonly because: string;
}

const HELP = `
A container is made by a list of orders, each about one system call. "stage" orders are carried out on the host, before the
container's namespaces exist; "container" orders by its first process, inside them. BECAUSE names the field of the OCI
configuration that asked for the order.

With a name, shows what made that container. With a directory that has a config.json (an OCI bundle), shows what would be
done; this needs neither root nor berthd. A name that is a directory, too, is the directory's if it has a "/" in it.

Examples:
  berth plan web
  berth plan ./bundle --json | jq -r '.[] | select(.order == "mount").words'

--json prints a list of: where, order, words, because.`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] CONTAINER|BUNDLE")
    .argument("<what>", "a container's name or id, or a directory with a config.json")
    .option("--json", "a JSON list, for scripts")
    .addHelpText("after", HELP)
    .action((what: string, { json }: { json?: boolean }) => plan(session, what, json === true));
}

async function plan(session: Session, what: string, json: boolean): Promise<void> {
  const { shell } = session;
  const lines =
    what.includes("/") || what === "." || what === ".."
      ? await planOfBundle(session, resolve(shell.cwd, what))
      : await planOfContainer(session, what);
  if (json) return printJson(shell, lines);
  const numbered = lines.map((line, index) => ({ ...line, number: String(index + 1) }));
  shell.stdout.write(
    formatTable(
      [
        { title: "#", value: ({ number }) => number },
        { title: "WHERE", value: ({ where }) => where },
        { title: "BECAUSE", value: ({ because }) => because },
        // Last, for some are long.
        { title: "ORDER", value: ({ words }) => words },
      ],
      numbered,
    ),
  );
}

async function planOfContainer(session: Session, name: string): Promise<readonly Line[]> {
  const client = await session.connect();
  const { id } = await findContainer(client, name);
  const { orders } = await client.berth.plan({ containerId: id });
  return orders.map(({ where, order, words, because }) => ({ where, order, words, because }));
}

async function planOfBundle(session: Session, directory: string): Promise<readonly Line[]> {
  const { compileSeccomp, describePlan, planContainer, readBundle, readHost } = await import("@berth/runtime");
  const { spec, rootfs } = await told(Promise.resolve(directory).then(readBundle));
  const id = basename(directory);
  const host = readHost();
  const seccomp = await told(compileSeccomp(spec.linux?.seccomp), `${directory}/config.json: `);
  const cgroup = { path: spec.linux?.cgroupsPath ?? `/berth/${id}` };
  const context = {
    id,
    rootfs: { kind: "path", path: rootfs },
    cgroup,
    host,
    seccomp,
    terminal: spec.process?.terminal === true,
  } as const;
  const planned = await told(
    Promise.resolve(spec).then((checked) => planContainer(checked, context)),
    `${directory}/config.json: `,
  );
  for (const warning of planned.warnings) warn(session.shell, `warning: ${warning}`);
  return describePlan(planned.plan).map(({ where, order, words, because }) => ({ where, order, words, because }));
}

/** What is wrong with a bundle is its author's to mend, not a fault of berth. */
async function told<T>(work: Promise<T>, prefix = ""): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof Error) || error instanceof TypeError) throw error;
    throw new Failure(`${prefix}${error.message}`, undefined, { cause: error });
  }
}
