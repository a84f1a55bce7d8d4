/** The configuration that a command line means: its file, or none where the ordinary one is not there. */
import { DEFAULT_CONFIG, type Flags } from "../options.ts";
import { type Document, EMPTY, readDocument } from "./document.ts";

/** Throws ConfigError, and ENOENT for a file that the command line names. */
export async function loadDocument(flags: Flags): Promise<Document> {
  if (flags.config !== undefined) return await readDocument(flags.config);
  try {
    return await readDocument(DEFAULT_CONFIG);
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && path === DEFAULT_CONFIG) return EMPTY;
    throw error;
  }
}
