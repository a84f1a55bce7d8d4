import type { Command } from "commander";
import { credentialHost } from "@berth/image/credentials";
import { Failure } from "../failure.ts";
import { type RegistryAuth, withDockerConfig } from "../registry/credentials.ts";
import { askLine, askSecret } from "../registry/prompt.ts";
import type { Session } from "../session.ts";
import { printLine, type Shell, warn } from "../shell.ts";

interface Flags {
  readonly username?: string;
  readonly password?: string;
  readonly passwordStdin?: boolean;
}

const HELP = `
berthd asks the registry, with its hosts.toml and proxies; only a login that the registry takes is kept. It is kept where docker
keeps it: with the credential helper that ~/.docker/config.json names, else in that file, unencrypted.

Examples:
  berth login registry.example.com
  berth login -u me --password-stdin registry.example.com <password-file`;

export function define(command: Command, session: Session): void {
  command
    .usage("[options] [SERVER]")
    .argument("[server]", "the registry's host and port", "docker.io")
    .option("-u, --username <name>", "user name")
    .option("-p, --password <password>", "password; others on this machine can see it while berth runs")
    .option("--password-stdin", "read the password from stdin")
    .addHelpText("after", HELP)
    .action((server: string, flags: Flags) => login(session, server, flags));
}

async function login(session: Session, server: string, flags: Flags): Promise<void> {
  const { shell } = session;
  const host = credentialHost(server);
  const stored =
    flags.username === undefined ? await withDockerConfig(shell, (config) => config.find(host)) : undefined;
  const client = await session.connect();
  const check = async (auth: RegistryAuth): Promise<void> =>
    void (await client.berth.login({ server: host, auth: { ...auth, serverAddress: "" } }));
  if (stored !== undefined && flags.password === undefined && flags.passwordStdin !== true) {
    await check(stored);
    return printLine(shell, "Login Succeeded");
  }
  const credentials = await typed(shell, flags);
  await check(credentials);
  const where = await withDockerConfig(shell, (config) => config.save(host, credentials));
  if (where.startsWith("/"))
    warn(shell, `the password is stored unencrypted in ${where}; a credential helper there would keep it safe`);
  printLine(shell, "Login Succeeded");
}

async function typed(shell: Shell, flags: Flags): Promise<{ username: string; password: string }> {
  if (flags.password !== undefined && flags.passwordStdin === true)
    throw new Failure("--password and --password-stdin exclude each other");
  if (flags.passwordStdin === true && flags.username === undefined)
    throw new Failure("--password-stdin needs --username: stdin is the password's");
  if (flags.password !== undefined)
    warn(
      shell,
      "--password can be seen by others on this machine, and stays in the shell's history: use --password-stdin",
    );
  const asks = flags.username === undefined || (flags.password === undefined && flags.passwordStdin !== true);
  if (asks && shell.stdin.isTTY !== true)
    throw new Failure("stdin is no terminal to ask at: give --username, and --password-stdin");
  const username = flags.username ?? (await askLine(shell, "Enter Username: "));
  const password =
    flags.password ??
    (flags.passwordStdin === true ? await readAll(shell) : await askSecret(shell, "Enter Password: "));
  if (username === "") throw new Failure("the user name is empty");
  if (password === "") throw new Failure("the password is empty");
  return { username, password };
}

async function readAll(shell: Shell): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of shell.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks)
    .toString("utf8")
    .replace(/\r?\n$/, "");
}
