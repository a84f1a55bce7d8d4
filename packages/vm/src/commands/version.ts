/** berth-vm version, and --version: kata-runtime's lines, with berth's values. */
import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { oci } from "@berth/spec/oci";
import type { Context } from "./context.ts";

const file = new URL("../../package.json", import.meta.url);
export const { version: VERSION } = JSON.parse(readFileSync(file, "utf8")) as { version: string };
export const OCI_VERSION: string = oci.SPEC_VERSION;

export const versionText = (): string =>
  `berth-vm  : ${VERSION}\n   commit   : <<unknown>>\n   OCI specs: ${OCI_VERSION}`;

export function addVersion(command: Command, context: Context): void {
  command
    .command("version")
    .description("display version details")
    .action(() => context.print(versionText()));
}
