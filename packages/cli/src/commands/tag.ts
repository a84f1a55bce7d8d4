import type { Command } from "commander";
import type { Session } from "../session.ts";

const HELP = `
Example:
  berth tag app registry.example.com/team/app:1.2 && berth push registry.example.com/team/app:1.2`;

export function define(command: Command, session: Session): void {
  command
    .usage("SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]")
    .argument("<source>", "a name, an id, or the beginning of an id")
    .argument("<target>", "[registry/]repository[:tag]")
    .addHelpText("after", HELP)
    .action(async (image: string, name: string) => {
      const client = await session.connect();
      await client.berth.tag({ image, name });
    });
}
