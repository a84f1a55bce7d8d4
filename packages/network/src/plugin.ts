/** One plugin, called once: finding it, its environment and input, and its answer or error (CNI spec 1.1, section 2). */
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { join } from "node:path";
import { type CallOptions, type CommandResult, type Hand, OrderError } from "@berth/kernel";
import { isObject, type Json } from "./conf.ts";

export type CniCommand = "ADD" | "DEL" | "CHECK" | "GC" | "STATUS";

/** Longest a plugin may take, unless the caller says otherwise: a DHCP lease or a busy control plane fits. */
const PLUGIN_TIMEOUT_MS = 90_000;
const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Plugins of the CNI project's own collection, which distributions package together. */
const STANDARD = new Set([
  "bandwidth",
  "bridge",
  "dhcp",
  "dummy",
  "firewall",
  "host-device",
  "host-local",
  "ipvlan",
  "loopback",
  "macvlan",
  "portmap",
  "ptp",
  "sbr",
  "static",
  "tap",
  "tuning",
  "vlan",
  "vrf",
]);

export interface CniErrorFields {
  readonly plugin: string;
  readonly network: string;
  readonly command: CniCommand;
  /** The plugin's own number: 1-99 are the spec's, 100 and up the plugin's. Absent: it never said one. */
  readonly code?: number | undefined;
  readonly details?: string | undefined;
  /** "missing": no such executable. "refused": it ran and failed. "killed": time-out, cancel or signal. "answer": not understood. */
  readonly kind: "missing" | "refused" | "killed" | "answer";
}

/** A plugin did not do what it was asked. `message`: `cni network "berth": plugin bridge: ADD: why`. */
export class CniError extends Error {
  override readonly name = "CniError";
  readonly plugin: string;
  readonly network: string;
  readonly command: CniCommand;
  readonly code: number | undefined;
  readonly details: string | undefined;
  readonly kind: CniErrorFields["kind"];

  constructor(problem: string, fields: CniErrorFields, options?: ErrorOptions) {
    super(
      `cni network ${JSON.stringify(fields.network)}: plugin ${fields.plugin}: ${fields.command}: ${problem}`,
      options,
    );
    this.plugin = fields.plugin;
    this.network = fields.network;
    this.command = fields.command;
    this.code = fields.code;
    this.details = fields.details;
    this.kind = fields.kind;
  }
}

export interface Invocation {
  readonly network: string;
  readonly plugin: string;
  readonly command: CniCommand;
  /** Written to the plugin's standard input. */
  readonly conf: Json;
  /** Absent for GC and STATUS, which are about no container. */
  readonly attachment?: {
    readonly containerId: string;
    readonly netns: string;
    readonly ifName: string;
    readonly args: string;
  };
}

/** The plugin's executable in the first of `binDirs` that has it. */
export async function findPlugin(type: string, binDirs: readonly string[]): Promise<string | undefined> {
  for (const dir of binDirs) {
    const path = join(dir, type);
    if (await isExecutable(path)) return path;
  }
  return undefined;
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch (error) {
    if (["ENOENT", "EACCES", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}

/** Why a plugin is not there, and what to do. */
export function explainMissing(type: string, binDirs: readonly string[]): string {
  const advice = STANDARD.has(type)
    ? `install Debian's or Ubuntu's package containernetworking-plugins, or put it into one of them`
    : `install it as the network's documentation says`;
  return `no executable ${type} in ${binDirs.join(" or ")}: ${advice}`;
}

/**
 * A plugin that is killed in its middle may leave what no DEL finds: host-local an address whose file does not say yet whose it
 * is. So one that is cancelled may end first; its result is undone.
 */
const CANCEL_GRACE_MS = 1_000;

/** Runs one plugin to its end. Resolves with its answer (`undefined`: it printed none); rejects with CniError or the signal's reason. */
export async function callPlugin(
  hand: Hand,
  binDirs: readonly string[],
  call: Invocation,
  options: CallOptions,
): Promise<Json | undefined> {
  const fields = { plugin: call.plugin, network: call.network, command: call.command };
  options.signal?.throwIfAborted();
  const path = await findPlugin(call.plugin, binDirs);
  if (path === undefined) throw new CniError(explainMissing(call.plugin, binDirs), { ...fields, kind: "missing" });
  const timeoutMs = options.timeoutMs ?? PLUGIN_TIMEOUT_MS;
  let result: CommandResult;
  try {
    const command = {
      argv: [path],
      env: pluginEnvironment(call, binDirs),
      stdin: Buffer.from(JSON.stringify(call.conf)),
    };
    using kill = options.signal && delayed(options.signal, CANCEL_GRACE_MS);
    result = await hand.spawn(command, { ...(kill ? { signal: kill.signal } : {}), timeoutMs });
    options.signal?.throwIfAborted();
  } catch (error) {
    if (error instanceof OrderError && error.code === "ETIMEDOUT") {
      throw new CniError(
        `no answer after ${timeoutMs / 1000} s, so it was ended`,
        { ...fields, kind: "killed" },
        { cause: error },
      );
    }
    if (error instanceof OrderError && error.code !== "ECANCELED") {
      throw new CniError(`cannot start ${path}: ${error.message}`, { ...fields, kind: "killed" }, { cause: error });
    }
    throw error;
  }
  if (result.status !== 0) throw refusal(result, fields);
  return parseAnswer(result, fields);
}

/** Aborts as the other does, so much later; not at all once it is disposed of. */
function delayed(other: AbortSignal, ms: number): { readonly signal: AbortSignal } & Disposable {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const start = (): void => {
    timer = setTimeout(() => controller.abort(other.reason), ms);
  };
  other.addEventListener("abort", start, { once: true });
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      clearTimeout(timer);
      other.removeEventListener("abort", start);
    },
  };
}

function pluginEnvironment(call: Invocation, binDirs: readonly string[]): Record<string, string> {
  const inherited = Object.entries(process.env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !entry[0].startsWith("CNI_"),
  );
  return {
    ...Object.fromEntries(inherited),
    // Plugins call iptables and the like, which an ordinary user's PATH leaves out.
    PATH: [process.env["PATH"], SYSTEM_PATH].filter(Boolean).join(":"),
    CNI_COMMAND: call.command,
    CNI_PATH: binDirs.join(":"),
    ...(call.attachment
      ? {
          CNI_CONTAINERID: call.attachment.containerId,
          CNI_NETNS: call.attachment.netns,
          CNI_IFNAME: call.attachment.ifName,
          CNI_ARGS: call.attachment.args,
        }
      : {}),
  };
}

type Fields = Pick<CniErrorFields, "plugin" | "network" | "command">;

/** The spec's error object on standard output, or what a plugin that died said on standard error. */
function refusal(result: CommandResult, fields: Fields): CniError {
  const stdout = Buffer.from(result.stdout).toString().trim();
  const stderr = Buffer.from(result.stderr).toString().trim();
  const answer = tryObject(stdout);
  if (answer && typeof answer["msg"] === "string" && answer["msg"] !== "") {
    const details = typeof answer["details"] === "string" && answer["details"] !== "" ? answer["details"] : undefined;
    const code = typeof answer["code"] === "number" ? answer["code"] : undefined;
    const text =
      answer["msg"] + (details === undefined ? "" : `; ${details}`) + (code === undefined ? "" : ` (code ${code})`);
    return new CniError(text, { ...fields, code, details, kind: "refused" });
  }
  const ending = result.signal === 0 ? `exit status ${result.status}` : `killed by signal ${result.signal}`;
  const said = [stderr, stdout].filter((text) => text !== "").join("; ");
  return new CniError(said === "" ? `${ending}, and it said nothing` : `${ending}: ${said}`, {
    ...fields,
    kind: result.signal === 0 ? "refused" : "killed",
  });
}

function parseAnswer(result: CommandResult, fields: Fields): Json | undefined {
  const text = Buffer.from(result.stdout).toString().trim();
  if (text === "") return undefined;
  if (result.truncated) throw new CniError("its answer is too long", { ...fields, kind: "answer" });
  const answer = tryObject(text);
  // Only ADD's answer means anything; what else a plugin prints at DEL is its own affair.
  if (answer === undefined && fields.command === "ADD") {
    throw new CniError(`its answer is not a JSON object: ${JSON.stringify(text.slice(0, 200))}`, {
      ...fields,
      kind: "answer",
    });
  }
  return answer;
}

function tryObject(text: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
