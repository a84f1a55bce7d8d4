/** What berth-ctk's commands have in common: where they write, and flags that are variables of the environment too. */
import { Option } from "commander";

export interface Io {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
  readonly stdin: AsyncIterable<Buffer | string>;
}

/** Of the command line before any command. */
export interface GlobalFlags {
  readonly debug?: boolean;
  readonly quiet?: boolean;
  /** The toolkit's configuration, if not at its usual place. */
  readonly config?: string;
}

export type Say = (text: string) => void;

/** May be repeated, and each may be several between commas. */
export const list = (text: string, before: readonly string[] | undefined): string[] => [
  ...(before ?? []),
  ...text.split(","),
];

export const flag = (flags: string, about: string, variable: string): Option => new Option(flags, about).env(variable);
export const listFlag = (flags: string, about: string, variable: string): Option =>
  flag(flags, `${about}; may be repeated`, variable).argParser(list);

export async function readAll(input: AsyncIterable<Buffer | string>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of input) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks).toString("utf8");
}
