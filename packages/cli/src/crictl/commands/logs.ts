import { cri } from "@berth/spec";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { onSignals } from "../../interrupt.ts";
import { readLogBatches } from "../../logs/reader.ts";
import type { LogRecord } from "../../logs/record.ts";
import { LogWriter } from "../../logs/writer.ts";
import type { CommandSpec, Context, Runtime } from "../command.ts";
import { CrictlError, EMPTY_ID, wrap } from "../errors.ts";
import { bool, int, string } from "../flags.ts";
import { parseDuration } from "@berth/spec/oci";

const RUNNING = cri.ContainerState.CONTAINER_RUNNING;
/** ms between looks at whether a followed container still runs. */
const LOOK_MS = 1000;

export const logs: CommandSpec = {
  name: "logs",
  usage: "Fetch the logs of a container",
  argsUsage: "CONTAINER-ID",
  shortOptions: true,
  flags: [
    bool("follow", "Follow log output", { aliases: ["f"] }),
    bool("previous", "Print the logs for the previous instance of the container in a pod if it exists", {
      aliases: ["p"],
    }),
    bool("reopen", "Reopen the container logs for the provided container", { aliases: ["r"] }),
    int("tail", "Number of lines to show from the end of the logs. Defaults to all", { value: -1 }),
    int("limit-bytes", "Maximum bytes of logs to return. Defaults to no limit", { value: -1 }),
    string("since", "Show logs since timestamp (e.g. 2013-01-02T13:23:37) or relative (e.g. 42m for 42 minutes)"),
    bool("timestamps", "Show timestamps", { aliases: ["t"] }),
    string("stream", "Show specified stream (stdout or stderr). Defaults to both.", { aliases: ["s"] }),
  ],
  async run(context) {
    const { flags } = context;
    const [containerId = ""] = flags.args;
    if (containerId === "") throw new CrictlError(EMPTY_ID);
    if (flags.args.length > 1) return context.help();
    const runtime = await context.runtime();
    if (flags.bool("reopen")) {
      await wrap("reopen container logs", () => runtime.reopenContainerLog({ containerId }));
      context.log("info", "Container logs reopened");
    }
    const since = sinceOf(flags.string("since"));
    const stream = flags.string("stream");
    if (stream !== "" && stream !== "stdout" && stream !== "stderr")
      throw new CrictlError(`invalid stream ${JSON.stringify(stream)}, must be "stdout" or "stderr"`);
    if (flags.isSet("tail") && flags.isSet("stream"))
      throw new CrictlError("--tail and --stream are mutually exclusive");
    const { status } = await runtime.containerStatus({ containerId });
    await show(context, runtime, containerId, logPathOf(context, status), { since, stream });
  },
};

function logPathOf({ flags }: Context, status: cri.ContainerStatus | undefined): string {
  const path = status?.logPath ?? "";
  if (path === "") throw new CrictlError("the container has not set log path");
  if (!flags.bool("previous")) return path;
  const attempt = status?.metadata?.attempt ?? 0;
  if (attempt === 0) throw new CrictlError(`previous terminated container ${status?.metadata?.name ?? ""} not found`);
  return `${path.slice(0, path.lastIndexOf("/") + 1)}${attempt - 1}${path.slice(path.lastIndexOf("."))}`;
}

interface Chosen {
  readonly since: number | undefined;
  readonly stream: string;
}

async function show(
  context: Context,
  runtime: Runtime,
  containerId: string,
  path: string,
  { since, stream }: Chosen,
): Promise<void> {
  const { flags, shell } = context;
  const ended = new AbortController();
  const follow = flags.bool("follow");
  using _ = onSignals(shell, () => ended.abort());
  if (follow) void untilExited(runtime, containerId, ended);
  const limit = { left: flags.number("limit-bytes") < 0 ? Infinity : flags.number("limit-bytes") };
  const outputs = { stdout: limited(shell.stdout, limit), stderr: limited(shell.stderr, limit) };
  const writer = new LogWriter(outputs, flags.bool("timestamps"));
  const tail = flags.number("tail");
  const options = { since, ...(tail >= 0 && { tail }), ...(follow && { follow: ended.signal }) };
  const wanted = ({ stream: name }: LogRecord): boolean => stream === "" || name === stream;
  for await (const batch of readLogBatches(path, options)) {
    await writer.write(batch.filter(wanted));
    if (limit.left <= 0 || (ended.signal.aborted && !follow)) return;
  }
}

async function untilExited(runtime: Runtime, containerId: string, ended: AbortController): Promise<void> {
  try {
    while ((await runtime.containerStatus({ containerId })).status?.state === RUNNING)
      await sleep(LOOK_MS, undefined, { signal: ended.signal });
  } finally {
    ended.abort();
  }
}

function limited(output: Writable, limit: { left: number }): Writable {
  if (limit.left === Infinity) return output;
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      const part = chunk.subarray(0, Math.max(0, limit.left));
      limit.left -= part.length;
      output.write(part, done);
    },
  });
}

/** A duration back from now, a time, or seconds since the epoch; in ms. */
export function sinceOf(text: string): number | undefined {
  if (text === "") return undefined;
  const back = parseDuration(text);
  if (back !== undefined) return Date.now() - back;
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * 1000;
  const time = Date.parse(/^\d{4}-\d\d-\d\dT\d\d:\d\d$/.test(text) ? `${text}:00` : text);
  if (Number.isNaN(time)) throw new CrictlError(`failed to parse value as time or duration: ${JSON.stringify(text)}`);
  return time;
}
