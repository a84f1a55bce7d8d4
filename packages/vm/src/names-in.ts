/** What is in a directory that need not be there. */
import { readdir } from "node:fs/promises";

/** Empty where the directory is not there. */
export async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
