/** Typed access to a checked document: values that checkDocument found no error in. */
import { parseDuration } from "@berth/spec/oci";
import type { Document, Entry } from "./document.ts";
import { pathKey } from "./locate.ts";

export class Reader {
  readonly #document: Document;
  readonly #at: readonly string[];

  constructor(document: Document, at: readonly string[] = []) {
    this.#document = document;
    this.#at = at;
  }

  below(...path: string[]): Reader {
    return new Reader(this.#document, [...this.#at, ...path]);
  }

  entry(...path: string[]): Entry | undefined {
    return this.#document.entries.get(pathKey([...this.#at, ...path]));
  }

  /** "" counts as not said, as in containerd. */
  string(...path: string[]): string | undefined {
    const value = this.entry(...path)?.value;
    return typeof value === "string" && value !== "" ? value : undefined;
  }

  bool(...path: string[]): boolean | undefined {
    const value = this.entry(...path)?.value;
    return typeof value === "boolean" ? value : undefined;
  }

  number(...path: string[]): number | undefined {
    const value = this.entry(...path)?.value;
    return typeof value === "number" ? value : undefined;
  }

  int(...path: string[]): number | undefined {
    return this.number(...path);
  }

  strings(...path: string[]): string[] | undefined {
    const value = this.entry(...path)?.value;
    return Array.isArray(value) ? (value as string[]) : undefined;
  }

  milliseconds(...path: string[]): number | undefined {
    const value = this.string(...path);
    return value === undefined ? undefined : parseDuration(value);
  }

  /** The names in this table, in the order in which files first say something of them. */
  names(): string[] {
    const prefix = this.#at;
    const names = new Set<string>();
    for (const { path } of this.#document.entries.values()) {
      const name = path[prefix.length];
      if (name !== undefined && prefix.every((part, index) => part === path[index])) names.add(name);
    }
    return [...names];
  }

  /** This table as a plain value. */
  table(): Record<string, unknown> {
    const table: Record<string, unknown> = {};
    for (const name of this.names()) {
      const entry = this.entry(name);
      table[name] = entry === undefined ? this.below(name).table() : entry.value;
    }
    return table;
  }
}
