/**
 * Lists that are asked for each second by a kubelet and hardly change: each item's bytes are kept beside what they were made of, and
 * made anew when that has changed; a list is then no more than their concatenation.
 */
import { type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

/** A whole answer, as it goes onto the wire. */
export class Encoded {
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
}

interface Kept {
  readonly inputs: readonly unknown[];
  readonly bytes: Uint8Array;
}

/**
 * The items of one repeated field. `inputs` are all that can change in what `message` makes of a record: a record is encoded again when
 * one of them is not what it was (by ===).
 */
export class ItemEncoder<R extends object, D extends DescMessage> {
  readonly #kept = new WeakMap<R, Kept>();
  readonly #field: number;
  readonly #schema: D;
  readonly #inputs: (record: R) => readonly unknown[];
  readonly #message: (record: R) => MessageShape<D>;

  constructor(options: {
    /** The number of the answer's field. */
    readonly field: number;
    readonly schema: D;
    readonly inputs: (record: R) => readonly unknown[];
    readonly message: (record: R) => MessageShape<D>;
  }) {
    this.#field = options.field;
    this.#schema = options.schema;
    this.#inputs = options.inputs;
    this.#message = options.message;
  }

  encode(records: readonly R[]): Encoded {
    return new Encoded(Buffer.concat(records.map((record) => this.#item(record))));
  }

  #item(record: R): Uint8Array {
    const inputs = this.#inputs(record);
    const kept = this.#kept.get(record);
    if (kept && inputs.every((input, index) => input === kept.inputs[index])) return kept.bytes;
    const writer = new BinaryWriter().tag(this.#field, WireType.LengthDelimited);
    const bytes = writer.bytes(toBinary(this.#schema, this.#message(record))).finish();
    this.#kept.set(record, { inputs, bytes });
    return bytes;
  }
}
