/** google.protobuf.Any as containerd uses it (containerd/typeurl): messages by their bare name, what is no message as JSON. */
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { type Any, AnySchema } from "@bufbuild/protobuf/wkt";

/** Of the OCI runtime specification's types; 1 is its major version. */
const OCI_PREFIX = "types.containerd.io/opencontainers/runtime-spec/1/";

export function packMessage<S extends DescMessage>(schema: S, message: MessageInitShape<S>): Any {
  return create(AnySchema, { typeUrl: schema.typeName, value: toBinary(schema, create(schema, message)) });
}

/** Undefined: it is of another type. */
export function unpackMessage<S extends DescMessage>(any: Any | undefined, schema: S): MessageShape<S> | undefined {
  if (any === undefined || nameOf(any) !== schema.typeName) return undefined;
  return fromBinary(schema, any.value);
}

/** "Process" or "LinuxResources". */
export function packJson(type: string, value: unknown): Any {
  return create(AnySchema, { typeUrl: `${OCI_PREFIX}${type}`, value: Buffer.from(JSON.stringify(value)) });
}

/** Whatever its type says: containerd's has changed its prefix. Throws SyntaxError. */
export function unpackJson<T>(any: Any): T {
  return JSON.parse(Buffer.from(any.value).toString()) as T;
}

/** Without "type.googleapis.com/", which other languages put before it. */
export const nameOf = ({ typeUrl }: Any): string => typeUrl.slice(typeUrl.lastIndexOf("/") + 1);
