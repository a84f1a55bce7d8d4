/** How exec, attach and port-forward reach the streaming server. */
import { readFileSync } from "node:fs";
import type { ConnectionOptions } from "node:tls";
import { DEFAULT_DETACH_KEYS, parseDetachKeys } from "../stream/detach-keys.ts";
import type { StreamEnd } from "../stream/client.ts";
import { wire } from "../stream/terminal.ts";
import type { Context } from "./command.ts";
import { CrictlError } from "./errors.ts";
import { type Flag, type Parsed, string } from "./flags.ts";

export const TRANSPORT_FLAGS: readonly Flag[] = [
  string("transport", "Transport protocol to use, one of: spdy|websocket", { aliases: ["r"], value: "spdy" }),
  string("tls-sni", "Server name used in the TLS client to check server certificates against", {
    aliases: ["tls-server-name"],
    value: "localhost",
  }),
  string("tls-ca", "Path to the streaming TLS CA certificate"),
  string("tls-cert", "Path to the streaming TLS certificate"),
  string("tls-key", "Path to the streaming TLS key"),
];

export type Transport = "spdy" | "websocket";

export function transportOf(flags: Parsed): Transport {
  const said = flags.string("transport");
  if (said !== "spdy" && said !== "websocket") throw new CrictlError(`get executor: unknown transport: ${said}`);
  return said;
}

/** Without a file of one's own the server's certificate is not checked. */
export function tlsOf(flags: Parsed): ConnectionOptions {
  const [ca, cert, key] = [flags.string("tls-ca"), flags.string("tls-cert"), flags.string("tls-key")];
  const servername = flags.string("tls-sni");
  if (ca === "" && cert === "" && key === "") return { rejectUnauthorized: false, servername };
  if (cert === "" || key === "")
    throw new CrictlError(
      "get TLS config from flags: all two flags --tls-ca and --tls-cert are required for TLS streaming, only --tls-key is optional",
    );
  return { servername, cert: readFileSync(cert), key: readFileSync(key), ...(ca !== "" && { ca: readFileSync(ca) }) };
}

export interface Joining {
  readonly url: string;
  readonly stdin: boolean;
  readonly tty: boolean;
}

/** Until the stream has ended; rejects with how it failed. */
export async function join(context: Context, { url, stdin, tty }: Joining): Promise<void> {
  const { shell, flags } = context;
  if (tty && !stdin) throw new CrictlError("tty=true must be specified with interactive=true");
  if (tty && shell.stdin.isTTY !== true) throw new CrictlError("input is not a terminal");
  const tls = tlsOf(flags);
  const stream =
    transportOf(flags) === "spdy"
      ? await (await import("../stream/spdy.ts")).openSpdyStream({ url, stdin, tty, tls }, shell)
      : await (await import("../stream/client.ts")).openStream(url, shell, tls);
  succeeded(await wire(shell, stream, { stdin, tty, detachKeys: parseDetachKeys(DEFAULT_DETACH_KEYS) }));
}

function succeeded(end: StreamEnd): void {
  if (end.kind === "exit" && end.code !== 0) throw new CrictlError(`command terminated with exit code ${end.code}`);
  if (end.kind === "failure" || end.kind === "lost") throw new CrictlError(end.message);
}
