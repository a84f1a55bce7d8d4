import type { Command } from "commander";
import { printJson } from "../json.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { VERSION } from "../version.ts";

export function define(command: Command, session: Session): void {
  command
    .usage("[options]")
    .option("--json", "print JSON: clientVersion, runtimeName, runtimeVersion, apiVersion")
    .addHelpText("after", "\nberth --version prints berth's own alone, and needs no berthd.")
    .action(({ json }: { json?: boolean }) => version(session, json === true));
}

async function version(session: Session, json: boolean): Promise<void> {
  const client = await session.connect();
  const { runtimeName, runtimeVersion, runtimeApiVersion: apiVersion } = await client.runtime.version({});
  if (json) return printJson(session.shell, { clientVersion: VERSION, runtimeName, runtimeVersion, apiVersion });
  printLine(session.shell, `Client: berth ${VERSION}`);
  printLine(session.shell, `Server: ${runtimeName} ${runtimeVersion}, CRI ${apiVersion}`);
}
