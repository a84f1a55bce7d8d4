/** Compiled filters on disk. */
import { createHash, randomUUID } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import type { BuiltFilter } from "./build.ts";

/** A line of JSON and the filter. Undefined for what is absent, cut short or changed: it is then compiled again. */
export function readFilter(path: string): BuiltFilter | undefined {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const end = file.indexOf("\n");
  const filter = Uint8Array.from(file.subarray(end + 1));
  try {
    const header = JSON.parse(file.toString("utf8", 0, Math.max(end, 0))) as {
      flags: string;
      sha256: string;
      warnings: string[];
    };
    return header.sha256 === digest(filter)
      ? { flags: BigInt(header.flags), filter, warnings: header.warnings }
      : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

export function keepFilter(path: string, directory: string, { flags, filter, warnings }: BuiltFilter): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const temporary = `${path}.${randomUUID()}`;
  try {
    writeFileSync(
      temporary,
      Buffer.concat([
        Buffer.from(`${JSON.stringify({ flags: String(flags), sha256: digest(filter), warnings })}\n`),
        filter,
      ]),
    );
    renameSync(temporary, path);
  } finally {
    rmSync(temporary, { force: true });
  }
}

function digest(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
