import { type Command, Option } from "commander";
import { toJson } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { Client } from "../client.ts";
import { eachOf } from "../each.ts";
import { Failure } from "../failure.ts";
import { printJson, readableTimes } from "../json.ts";
import { findContainer, findPod } from "../names.ts";
import type { Session } from "../session.ts";

const KINDS = ["container", "pod", "image"] as const;
type Kind = (typeof KINDS)[number];

const HELP = `
Without --type, a container is looked for first, then a pod, then an image. Prints a list with an object for each name:
  type      container, pod or image
  status    what the CRI tells (ContainerStatus, PodSandboxStatus, Image; names as in its JSON form, times as in RFC 3339)
  info      what berthd tells besides: pid, OCI configuration, image configuration …

Examples:
  berth inspect web | jq '.[0].info.pid'
  berth inspect --type image IMAGE | jq '.[0].info.imageSpec.config'`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] NAME...")
    .argument("<name...>", "names, ids, or beginnings of ids")
    .addOption(new Option("--type <kind>", "what the names are of").choices(KINDS))
    .addOption(new Option("--mode <mode>", "nerdctl's: there is one form here").choices(["native"]).hideHelp())
    .option("--json", "the same: it is always JSON")
    .addHelpText("after", HELP)
    .action((names: string[], { type }: { type?: Kind }) => inspect(session, names, type));
}

async function inspect(session: Session, names: readonly string[], type: Kind | undefined): Promise<void> {
  const client = await session.connect();
  const found: object[] = [];
  await eachOf(session, names, async (name) => {
    found.push(type === undefined ? await any(client, name) : await LOOK[type](client, name));
  });
  printJson(session.shell, found);
}

/** The first kind that has the name; an ambiguous one is told as such. */
async function any(client: Client, name: string): Promise<object> {
  for (const kind of KINDS) {
    try {
      return await LOOK[kind](client, name);
    } catch (error) {
      if (!(error instanceof Failure) || !error.message.startsWith("no such ")) throw error;
    }
  }
  throw new Failure(`no such container, pod or image: "${name}"; see berth ps -a, berth pods, berth images`);
}

const LOOK: Readonly<Record<Kind, (client: Client, name: string) => Promise<object>>> = {
  container: async (client, name) => {
    const { id } = await findContainer(client, name);
    const { status, info } = await client.runtime.containerStatus({ containerId: id, verbose: true });
    return { type: "container", status: status && json(cri.ContainerStatusSchema, status), info: readInfo(info) };
  },
  pod: async (client, name) => {
    const { id } = await findPod(client, name);
    const { status, info } = await client.runtime.podSandboxStatus({ podSandboxId: id, verbose: true });
    return { type: "pod", status: status && json(cri.PodSandboxStatusSchema, status), info: readInfo(info) };
  },
  image: async (client, name) => {
    const { image, info } = await client.images.imageStatus({ image: { image: name }, verbose: true });
    if (!image) throw new Failure(`no such image: "${name}"; see berth images`);
    return { type: "image", status: json(cri.ImageSchema, image), info: readInfo(info) };
  },
};

const json = (schema: Parameters<typeof toJson>[0], message: Parameters<typeof toJson>[1]): unknown =>
  readableTimes(toJson(schema, message, { alwaysEmitImplicit: true }));

/** Values are JSON by custom, and text otherwise; what is under the key "info" is what everybody looks for. */
function readInfo(info: Readonly<Record<string, string>>): unknown {
  const values = Object.fromEntries(Object.entries(info).map(([key, text]) => [key, parseOrText(text)]));
  const { info: main, ...rest } = values;
  return typeof main === "object" && main !== null ? { ...main, ...rest } : values;
}

function parseOrText(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return text;
    throw error;
  }
}
