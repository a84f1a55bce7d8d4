/** Pulling, for `pull` and before `create` and `run`. */
import type { cri } from "@berth/spec";
import type { Context, Images } from "./command.ts";
import { CrictlError } from "./errors.ts";
import { bool, duration, type Flag, string } from "./flags.ts";

export const PULL_FLAGS: readonly Flag[] = [
  string("creds", "Use `USERNAME[:PASSWORD]` for accessing the registry", { env: "CRICTL_CREDS" }),
  string(
    "auth",
    "Use `AUTH_STRING` for accessing the registry. AUTH_STRING is a base64 encoded 'USERNAME[:PASSWORD]'",
    { env: "CRICTL_AUTH" },
  ),
  string("username", "Use `USERNAME` for accessing the registry. The password will be requested on the command line", {
    aliases: ["u"],
  }),
  duration("pull-timeout", "Maximum time to be used for pulling the image, disabled if set to 0s", {
    aliases: ["pt"],
    env: "CRICTL_PULL_TIMEOUT",
  }),
];

export const withPullFlags = (no: string, yes: string): readonly Flag[] => [
  bool("no-pull", no),
  bool("with-pull", yes),
  duration("cancel-timeout", "Seconds to wait for the request to complete before cancelling", { aliases: ["T"] }),
  ...PULL_FLAGS,
];

/** What the image service is told of who asks. */
export async function authOf({
  shell,
  flags,
}: Context): Promise<{ username?: string; password?: string; auth?: string } | undefined> {
  const [username, creds, auth] = [flags.string("username"), flags.string("creds"), flags.string("auth")];
  if (username !== "") return { username, password: await askPassword(shell) };
  if (creds !== "" && auth !== "") throw new CrictlError("both `--creds` and `--auth` are specified");
  if (auth !== "") return { auth };
  if (creds === "") return undefined;
  const colon = creds.indexOf(":");
  if (colon === 0) throw new CrictlError("username can't be empty");
  return colon < 0
    ? { username: creds, password: "" }
    : { username: creds.slice(0, colon), password: creds.slice(colon + 1) };
}

/** A line of stdin, not shown where that is a terminal. */
async function askPassword(shell: Context["shell"]): Promise<string> {
  const { stdin, stdout } = shell;
  stdout.write("Enter Password:");
  using _ = stdin.isTTY ? shell.rawTerminal() : undefined;
  let typed = "";
  for await (const chunk of stdin) {
    typed += String(chunk);
    if (typed.includes("\u0003")) throw new CrictlError("interrupted");
    if (/[\r\n]/.test(typed)) break;
  }
  stdout.write("\n");
  return typed.split(/[\r\n]/)[0] ?? "";
}

export interface Pull {
  readonly image: string;
  readonly annotations?: Record<string, string>;
  readonly sandboxConfig?: cri.PodSandboxConfig | undefined;
}

export async function pullImage(
  context: Context,
  images: Images,
  { image, annotations = {}, sandboxConfig }: Pull,
): Promise<string> {
  const timeout = context.flags.number("pull-timeout");
  if (timeout < 0) throw new CrictlError("timeout should be bigger than 0");
  const auth = await authOf(context);
  const request = { image: { image, annotations }, ...(auth && { auth }), ...(sandboxConfig && { sandboxConfig }) };
  return (await images.pullImage(request, timeout > 0 ? { timeout } : {})).imageRef;
}
