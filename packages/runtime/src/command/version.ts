/** What `--version` prints: runc's lines, with berth's values. */
import { readFileSync } from "node:fs";

/** Without the program's name; ends with a newline. */
export async function versionText(): Promise<string> {
  const { oci } = await import("@berth/spec/oci");
  const file = new URL("../../package.json", import.meta.url);
  const { version } = JSON.parse(readFileSync(file, "utf8")) as { version: string };
  return `${version}\nspec: ${oci.SPEC_VERSION}\nnode: ${process.version}\n`;
}
