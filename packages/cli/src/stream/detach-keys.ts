/** The key sequence that leaves a container running: ctrl-p ctrl-q, as docker's. */
import { Failure } from "../failure.ts";

export const DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q";

const CONTROL: Readonly<Record<string, number>> = { "@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, _: 31 };

/** The bytes of "ctrl-a,x": docker's grammar. An empty text means no sequence at all. */
export function parseDetachKeys(text: string): Uint8Array {
  if (text === "") return new Uint8Array();
  return Uint8Array.from(text.split(","), (key) => {
    const control = /^ctrl-([a-z@[\\\]^_])$/.exec(key)?.[1];
    if (control !== undefined) return CONTROL[control] ?? control.charCodeAt(0) - 0x60;
    const [only] = Buffer.from(key);
    if (key.length === 1 && only !== undefined && only < 0x80) return only;
    throw new Failure(
      `--detach-keys: "${key}" is not a key: use a single character, or ctrl- and one of a-z @ [ \\ ] ^ _, separated by commas`,
    );
  });
}

export interface Keys {
  /** What goes to the container. */
  readonly forward: Uint8Array;
  readonly detached: boolean;
}

/** Looks for the sequence in what is typed. The beginning of a possible sequence is held back until the next key shows. */
export class DetachKeys {
  readonly #sequence: Uint8Array;
  #matched = 0;

  constructor(sequence: Uint8Array) {
    this.#sequence = sequence;
  }

  feed(chunk: Uint8Array): Keys {
    if (this.#sequence.length === 0) return { forward: chunk, detached: false };
    const forward: number[] = [];
    for (const byte of chunk) {
      if (byte !== this.#sequence[this.#matched]) {
        forward.push(...this.#sequence.subarray(0, this.#matched));
        this.#matched = 0;
      }
      if (byte === this.#sequence[this.#matched]) this.#matched++;
      else forward.push(byte);
      if (this.#matched === this.#sequence.length) return { forward: Uint8Array.from(forward), detached: true };
    }
    return { forward: Uint8Array.from(forward), detached: false };
  }
}
