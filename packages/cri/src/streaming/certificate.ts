/**
 * A certificate for streams without a key pair of the node's own: signed by itself, for this machine's names and addresses, as
 * containerd makes one at each start. The key exists in memory alone. X.509 in DER: RFC 5280; the key and signature: RFC 5480, 5758.
 */
import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { isIPv4 } from "node:net";

/** PEM. */
export interface KeyPair {
  readonly cert: string;
  readonly key: string;
}

const ECDSA_WITH_SHA256 = [1, 2, 840, 10_045, 4, 3, 2];
const COMMON_NAME = [2, 5, 4, 3];
const BASIC_CONSTRAINTS = [2, 5, 29, 19];
const KEY_USAGE = [2, 5, 29, 15];
const EXTENDED_KEY_USAGE = [2, 5, 29, 37];
const SUBJECT_ALTERNATIVE_NAME = [2, 5, 29, 17];
const SERVER_AUTH = [1, 3, 6, 1, 5, 5, 7, 3, 1];
/** Bits 0 and 5: digitalSignature, keyCertSign. */
const SIGNS = Buffer.of(2, 0b1000_0100);
/** Clocks that are a little behind take it too. */
const BACK_MS = 3_600_000;
/** A daemon may run for years, and its clients have no other way to trust it than not to check. */
const VALID_MS = 10 * 365 * 86_400_000;

/** `names`: host names. `addresses`: IPv4 and IPv6, without zones. */
export function selfSigned(names: readonly string[], addresses: readonly string[], at = new Date()): KeyPair {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const algorithm = sequence(identifier(ECDSA_WITH_SHA256));
  const name = sequence(tlv(0x31, sequence(identifier(COMMON_NAME), tlv(0x0c, Buffer.from(names[0] ?? "berthd")))));
  const validity = sequence(time(at.getTime() - BACK_MS), time(at.getTime() + VALID_MS));
  const certificate = sequence(
    tlv(0xa0, integer(Buffer.of(2))),
    integer(randomBytes(16)),
    algorithm,
    name,
    validity,
    name,
    publicKey.export({ type: "spki", format: "der" }),
    tlv(0xa3, extensions(names, addresses)),
  );
  const signature = sign("sha256", certificate, privateKey);
  const der = sequence(certificate, algorithm, tlv(0x03, Buffer.concat([Buffer.of(0), signature])));
  return { cert: pem("CERTIFICATE", der), key: privateKey.export({ type: "pkcs8", format: "pem" }) };
}

function extensions(names: readonly string[], addresses: readonly string[]): Buffer {
  const critical = tlv(0x01, Buffer.of(0xff));
  const extension = (id: readonly number[], value: Buffer, ...flags: Buffer[]): Buffer =>
    sequence(identifier(id), ...flags, tlv(0x04, value));
  const subjects = [
    ...names.map((host) => tlv(0x82, Buffer.from(host))),
    ...addresses.map((address) => tlv(0x87, addressBytes(address))),
  ];
  return sequence(
    extension(BASIC_CONSTRAINTS, sequence(critical), critical),
    extension(KEY_USAGE, tlv(0x03, SIGNS), critical),
    extension(EXTENDED_KEY_USAGE, sequence(identifier(SERVER_AUTH))),
    extension(SUBJECT_ALTERNATIVE_NAME, sequence(...subjects)),
  );
}

/** Tag, length, value. */
function tlv(tag: number, value: Buffer): Buffer {
  const { length } = value;
  if (length < 0x80) return Buffer.concat([Buffer.of(tag, length), value]);
  const bytes = Buffer.from(length.toString(16).padStart(length < 0x100 ? 2 : 4, "0"), "hex");
  return Buffer.concat([Buffer.of(tag, 0x80 | bytes.length), bytes, value]);
}

const sequence = (...parts: readonly Buffer[]): Buffer => tlv(0x30, Buffer.concat(parts));

/** Positive, and its first byte not zero but where the sign needs it. */
function integer(magnitude: Buffer): Buffer {
  const at = magnitude.findIndex((byte) => byte !== 0);
  const bytes = magnitude.subarray(Math.max(0, at));
  return tlv(0x02, (bytes[0] ?? 0) < 0x80 ? bytes : Buffer.concat([Buffer.of(0), bytes]));
}

function identifier([first = 0, second = 0, ...rest]: readonly number[]): Buffer {
  const base128 = (part: number): number[] => [
    ...(part >= 0x80 ? base128(Math.floor(part / 0x80)).map((byte) => byte | 0x80) : []),
    part % 0x80,
  ];
  return tlv(0x06, Buffer.from([first * 40 + second, ...rest.flatMap(base128)]));
}

/** UTCTime until 2049, GeneralizedTime from 2050 on (RFC 5280, section 4.1.2.5). */
function time(ms: number): Buffer {
  const text = new Date(ms).toISOString().replace(/\.\d+|[-:T]/g, "");
  return text < "2050" ? tlv(0x17, Buffer.from(text.slice(2))) : tlv(0x18, Buffer.from(text));
}

function addressBytes(address: string): Buffer {
  if (isIPv4(address)) return Buffer.from(address.split(".").map(Number));
  const [head = "", tail] = address.split("::");
  const groups = (text: string | undefined): string[] => (text ? text.split(":") : []);
  const [front, back] = [groups(head), groups(tail)];
  const all = [...front, ...Array.from({ length: 8 - front.length - back.length }, () => "0"), ...back];
  return Buffer.from(all.map((group) => group.padStart(4, "0")).join(""), "hex");
}

const pem = (label: string, der: Buffer): string =>
  `-----BEGIN ${label}-----\n${der.toString("base64").replace(/.{1,64}/g, "$&\n")}-----END ${label}-----\n`;
