/** Plans and messages to bytes, and reports and other answers back. The format is described in messages.ts. */
import { Decoder, DecodeError, Encoder, type FieldOutput } from "./codec.ts";
import { MESSAGES, TREE, type MessageName } from "./messages.ts";
import type { Order, Plan } from "./plan.ts";
import { ORDERS, PLAN_VERSION, type FieldType, type OrderName, type OrderSpec } from "./table.ts";

export const HEADER_SIZE = 16;
const TREE_HEADER_SIZE = 8;

type OutputOf<T extends FieldType> = T extends "u32"
  ? number
  : T extends "u64" | "i64"
    ? bigint
    : T extends "str"
      ? string
      : T extends "bytes"
        ? Uint8Array
        : T extends "strs"
          ? string[]
          : T extends "blobs"
            ? Uint8Array[]
            : number[];

/** The fields of a message as they are decoded. */
export type Message<N extends MessageName> = {
  readonly [K in keyof (typeof MESSAGES)[N]["fields"]]: OutputOf<Extract<(typeof MESSAGES)[N]["fields"][K], FieldType>>;
};

type InputOf<T extends FieldType> = T extends "u32"
  ? number
  : T extends "u64" | "i64"
    ? bigint
    : T extends "str"
      ? string | Uint8Array
      : T extends "bytes"
        ? Uint8Array
        : T extends "strs"
          ? readonly (string | Uint8Array)[]
          : T extends "blobs"
            ? readonly Uint8Array[]
            : readonly number[];

/** The fields of a message as a caller gives them. */
export type MessageFields<N extends MessageName> = {
  readonly [K in keyof (typeof MESSAGES)[N]["fields"]]: InputOf<Extract<(typeof MESSAGES)[N]["fields"][K], FieldType>>;
};

export type TreeEntryName = keyof typeof TREE;
export type TreeFields<N extends TreeEntryName> = {
  readonly [K in keyof (typeof TREE)[N]["fields"]]: InputOf<Extract<(typeof TREE)[N]["fields"][K], FieldType>>;
};

const MESSAGES_BY_TYPE: ReadonlyMap<number, MessageName> = new Map(
  Object.entries(MESSAGES).map(([name, spec]) => [spec.type, name as MessageName]),
);
const ORDERS_BY_CODE: ReadonlyMap<number, OrderName> = new Map(
  Object.entries(ORDERS).map(([name, spec]) => [spec.code, name as OrderName]),
);

/** Throws EncodeError naming the order and field that does not fit. */
export function encodePlan(plan: Plan): Buffer {
  const encoder = new Encoder();
  encoder.u32(PLAN_VERSION);
  encoder.u32(plan.orders.length);
  for (const order of plan.orders) {
    const spec: OrderSpec = ORDERS[order.order];
    encoder.u16(spec.code);
    encoder.u16(0);
    const sizeAt = encoder.size;
    encoder.u32(0);
    encoder.fields(spec.fields, order.args, order.order);
    encoder.setU32(sizeAt, encoder.size - sizeAt - 4);
  }
  return encoder.take();
}

/** The counterpart of encodePlan: texts come back as strings, and `because` is not on the wire. Throws DecodeError. */
export function decodePlan(bytes: Uint8Array): Plan {
  const decoder = new Decoder(bytes);
  const version = decoder.u32();
  if (version !== PLAN_VERSION) throw new DecodeError(`plan version ${version}; this is ${PLAN_VERSION}`);
  const orders: Order[] = [];
  for (let left = decoder.u32(); left > 0; left--) {
    const name = ORDERS_BY_CODE.get(decoder.u16());
    decoder.u16();
    const body = new Decoder(decoder.raw(decoder.u32()));
    if (name === undefined) throw new DecodeError("a plan has an order of unknown code");
    const args = body.fields(ORDERS[name].fields);
    if (!body.atEnd) throw new DecodeError(`order ${name} is longer than its fields`);
    orders.push({ order: name, args } as unknown as Order);
  }
  if (!decoder.atEnd) throw new DecodeError("a plan is longer than its orders");
  return { orders };
}

/** A whole frame, header and body. `timeoutMs` 0: none. */
export function encodeMessage<N extends MessageName>(
  name: N,
  id: number,
  timeoutMs: number,
  fields: MessageFields<N>,
): Buffer {
  const spec = MESSAGES[name];
  const encoder = new Encoder();
  encoder.u32(0);
  encoder.u32(id);
  encoder.u16(spec.type);
  encoder.u16(0);
  encoder.u32(timeoutMs);
  encoder.fields(spec.fields, fields, name);
  encoder.setU32(0, encoder.size - HEADER_SIZE);
  return encoder.take();
}

export interface FrameHeader {
  /** Of the body. */
  readonly size: number;
  readonly id: number;
  readonly type: number;
}

/** `bytes` has at least HEADER_SIZE bytes. */
export function decodeHeader(bytes: Buffer): FrameHeader {
  return { size: bytes.readUInt32LE(0), id: bytes.readUInt32LE(4), type: bytes.readUInt16LE(8) };
}

export type AnyMessage = { [N in MessageName]: { readonly name: N; readonly fields: Message<N> } }[MessageName];

/** Throws DecodeError on an unknown type and on a body that is not its fields exactly. */
export function decodeMessage(type: number, body: Uint8Array): AnyMessage {
  const name = MESSAGES_BY_TYPE.get(type);
  if (name === undefined) throw new DecodeError(`message type ${type} is unknown`);
  const decoder = new Decoder(body);
  const fields: Record<string, FieldOutput> = decoder.fields(MESSAGES[name].fields);
  if (!decoder.atEnd) throw new DecodeError(`message ${name} is longer than its fields`);
  return { name, fields } as unknown as AnyMessage;
}

/** One entry of a tree stream, header and fields. */
export function encodeTreeEntry<N extends TreeEntryName>(name: N, fields: TreeFields<N>): Buffer {
  const spec = TREE[name];
  const encoder = new Encoder();
  encoder.u32(0);
  encoder.u16(spec.type);
  encoder.u16(0);
  encoder.fields(spec.fields, fields, name);
  encoder.setU32(0, encoder.size - TREE_HEADER_SIZE);
  return encoder.take();
}

/** The `outputs` field of a report: by order index; undefined where the file was missing. Throws DecodeError. */
export function decodeOutputs(bytes: Uint8Array): Map<number, Uint8Array | undefined> {
  const outputs = new Map<number, Uint8Array | undefined>();
  const decoder = new Decoder(bytes);
  while (!decoder.atEnd) {
    const index = decoder.u32();
    const missing = (decoder.u32() & 1) !== 0;
    const data = decoder.raw(decoder.u32());
    outputs.set(index, missing ? undefined : Uint8Array.from(data));
  }
  return outputs;
}
