import type { Command } from "commander";
import { credentialHost } from "@berth/image/credentials";
import { withDockerConfig } from "../registry/credentials.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

export function define(command: Command, session: Session): void {
  command
    .usage("[SERVER]")
    .argument("[server]", "the registry's host and port", "docker.io")
    .action((server: string) => logout(session, server));
}

async function logout({ shell }: Session, server: string): Promise<void> {
  const host = credentialHost(server);
  const known = await withDockerConfig(shell, (config) => config.forget(host));
  printLine(shell, known ? `Removing login credentials for ${host}` : `Not logged in to ${host}`);
}
