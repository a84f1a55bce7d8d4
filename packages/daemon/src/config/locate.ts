/** Which line of a TOML file each of its keys is on: what a message about a key needs, and parsers do not tell. */

/** Keys' paths, joined so that a dot within a key is no separator. */
export const pathKey = (path: readonly string[]): string => path.join("\0");

/** Lines (from 1) of every table header and key of `text`, which a parser has accepted. Of a repeated header the first. */
export function locateKeys(text: string): Map<string, number> {
  return new Locator(text).run();
}

class Locator {
  readonly #text: string;
  readonly #lines = new Map<string, number>();
  #at = 0;
  #line = 1;
  #table: string[] = [];

  constructor(text: string) {
    this.#text = text;
  }

  run(): Map<string, number> {
    for (this.#skipBlank(); this.#at < this.#text.length; this.#skipBlank()) {
      if (this.#peek() === "[") this.#header();
      else this.#pair();
    }
    return this.#lines;
  }

  #peek(): string {
    return this.#text[this.#at] ?? "";
  }

  #take(): string {
    const char = this.#peek();
    if (char === "\n") this.#line++;
    this.#at++;
    return char;
  }

  #record(path: readonly string[]): void {
    const key = pathKey(path);
    if (!this.#lines.has(key)) this.#lines.set(key, this.#line);
  }

  #skipBlank(): void {
    while (this.#at < this.#text.length) {
      if (this.#peek() === "#") this.#skipComment();
      else if (/\s/.test(this.#peek())) this.#take();
      else return;
    }
  }

  #skipComment(): void {
    while (this.#at < this.#text.length && this.#peek() !== "\n") this.#take();
  }

  #header(): void {
    while (this.#peek() === "[") this.#take();
    this.#table = this.#dottedKey();
    this.#record(this.#table);
    while (this.#peek() === "]") this.#take();
  }

  #pair(): void {
    const path = [...this.#table, ...this.#dottedKey()];
    this.#record(path);
    this.#take();
    this.#value();
  }

  /** Up to the "=" or "]" that ends it. */
  #dottedKey(): string[] {
    const parts: string[] = [];
    for (;;) {
      this.#skipSpaces();
      const char = this.#peek();
      parts.push(char === '"' || char === "'" ? this.#quoted() : this.#bare());
      this.#skipSpaces();
      if (this.#peek() !== ".") return parts;
      this.#take();
    }
  }

  #skipSpaces(): void {
    while (this.#peek() === " " || this.#peek() === "\t") this.#take();
  }

  #bare(): string {
    const from = this.#at;
    while (/[A-Za-z0-9_-]/.test(this.#peek())) this.#take();
    return this.#text.slice(from, this.#at);
  }

  /** A string of one line. Its escapes are JSON's, but for the rare ones, which only a message would show. */
  #quoted(): string {
    const quote = this.#take();
    const from = this.#at;
    while (this.#at < this.#text.length && this.#peek() !== quote) {
      if (quote === '"' && this.#peek() === "\\") this.#take();
      this.#take();
    }
    const raw = this.#text.slice(from, this.#at);
    this.#take();
    return quote === '"' ? unescape(raw) : raw;
  }

  /** To the end of the value, however many lines it has. */
  #value(): void {
    for (let depth = 0; this.#at < this.#text.length;) {
      const char = this.#peek();
      if (char === "#") this.#skipComment();
      else if (char === '"' || char === "'") this.#string(char);
      else if (char === "\n" && depth === 0) return;
      else {
        if (char === "[" || char === "{") depth++;
        if (char === "]" || char === "}") depth--;
        this.#take();
      }
    }
  }

  #string(quote: string): void {
    const long = quote.repeat(3);
    if (!this.#text.startsWith(long, this.#at)) {
      this.#quoted();
      return;
    }
    for (let i = 0; i < 3; i++) this.#take();
    while (this.#at < this.#text.length && !this.#text.startsWith(long, this.#at)) {
      if (quote === '"' && this.#peek() === "\\") this.#take();
      this.#take();
    }
    // A long string may end in up to two quotes of its own.
    while (this.#peek() === quote) this.#take();
  }
}

function unescape(raw: string): string {
  if (!raw.includes("\\")) return raw;
  try {
    return JSON.parse(`"${raw}"`) as string;
  } catch (error) {
    if (error instanceof SyntaxError) return raw;
    throw error;
  }
}
