/** The pods that commands name, by their management sockets. */
import { readFile } from "node:fs/promises";
import { VmError } from "../errors.ts";
import { askManagement } from "../management/client.ts";
import { findSandbox, KATA_DIRECTORIES, sandboxesOf } from "../management/place.ts";
import type { Context } from "./context.ts";

/** Where machines of this berthd's, of another's, and of Kata's are. */
export const sandboxDirectories = (context: Context): string[] => [
  ...new Set([sandboxesOf(context.options.state), ...KATA_DIRECTORIES]),
];

/** Rejects with VmError. */
export const sandboxDirectory = async (context: Context, id: string | undefined): Promise<string> =>
  await findSandbox(id, sandboxDirectories(context));

/** Rejects with VmError, in kata-runtime's words. */
export async function putFile(directory: string, url: string, file: string | undefined, what: string): Promise<void> {
  if (file === undefined || file === "") throw new VmError("InvalidArgument", `${what} file not provided`);
  let body: Buffer;
  try {
    body = await readFile(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new VmError("InvalidArgument", `${what} file does not exist: ${file}`);
  }
  try {
    await askManagement(directory, { method: "PUT", path: url, body, type: "application/octet-stream" });
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    throw new VmError(error.code, `Error observed when making ${what}-set request(${file}): ${error.message}`, {
      cause: error,
    });
  }
}
