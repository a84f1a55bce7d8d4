/** Whole requests for processes of bosun's that speak for another one: bosun puts the stream's number in them, and other numbers in places. */
import { ttrpc } from "@berth/spec/shim";
import { create, type DescMessage, type DescMethodUnary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { Metadata } from "./client.ts";
import { encodeFrame, TYPE } from "./frame.ts";

/** A varint of 32 bits in the five bytes that its longest takes: bosun puts the number there. */
const PLACE = Buffer.from([0x80, 0x80, 0x80, 0x80, 0x00]);

/** At the end of a message: the key of a field that is a number, and a place for it. */
export const numberPlace = (field: number): Buffer => Buffer.concat([Buffer.from([field << 3]), PLACE]);

/** At the end of a message: the key of a field of bytes, and a place for their length. The bytes themselves come behind. */
const lengthPlace = (field: number): Buffer => Buffer.concat([Buffer.from([(field << 3) | 2]), PLACE]);

/** With the payload last, so that its end is the frame's. `places` are behind the message. */
export function requestFrame<I extends DescMessage>(
  method: DescMethodUnary<I>,
  message: MessageInitShape<I>,
  places: readonly Buffer[] = [],
  metadata: Metadata = {},
): Buffer {
  const payload = Buffer.concat([toBinary(method.input, create(method.input, message)), ...places]);
  // protobuf takes fields in any order, and of one that is no list the last that comes.
  const tail = toBinary(ttrpc.RequestSchema, create(ttrpc.RequestSchema, { payload }));
  return encodeFrame({
    stream: 0,
    type: TYPE.request,
    flags: 0,
    data: Buffer.concat([headOf(method, metadata), tail]),
  });
}

/** `field`, of bytes, is open: the length of the payload is left open too, at the offset `payload` of the frame. */
export function openFrame<I extends DescMessage>(
  method: DescMethodUnary<I>,
  message: MessageInitShape<I>,
  field: number,
): { readonly frame: Buffer; readonly payload: number } {
  const head = Buffer.concat([headOf(method, {}), lengthPlace(ttrpc.RequestSchema.field.payload.number)]);
  const inside = [toBinary(method.input, create(method.input, message)), lengthPlace(field)];
  const frame = encodeFrame({ stream: 0, type: TYPE.request, flags: 0, data: Buffer.concat([head, ...inside]) });
  return { frame, payload: frame.length - Buffer.concat(inside).length - PLACE.length };
}

function headOf({ parent, name }: DescMethodUnary, metadata: Metadata): Uint8Array {
  const request = create(ttrpc.RequestSchema, {
    service: parent.typeName,
    method: name,
    metadata: Object.entries(metadata).flatMap(([key, values]) => values.map((value) => ({ key, value }))),
  });
  return toBinary(ttrpc.RequestSchema, request);
}
