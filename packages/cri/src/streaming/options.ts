/** The streaming server's settings, with its certificate read. */
import { readFile } from "node:fs/promises";
import { hostname, networkInterfaces } from "node:os";
import type { CriSettings } from "../settings.ts";
import type { KeyPair } from "./certificate.ts";

export interface StreamingOptions {
  readonly address: string;
  /** 0: any free one. */
  readonly port: number;
  /** ms without a byte either way, after which a connection is closed; 0: never. */
  readonly idleTimeoutMs: number;
  /** ms for a client to make the streams it has announced. */
  readonly creationTimeoutMs: number;
  readonly tls?: KeyPair | undefined;
}

/** The kubelet's and containerd's default. */
const CREATION_TIMEOUT_MS = 30_000;

export async function streamingOptions(settings: CriSettings): Promise<StreamingOptions> {
  const { streamAddress: address, streamPort: port, streamIdleMs: idleTimeoutMs, streamTls } = settings;
  const tls = streamTls && (await keyPairOf(streamTls));
  return { address, port, idleTimeoutMs, creationTimeoutMs: CREATION_TIMEOUT_MS, tls };
}

async function keyPairOf(tls: NonNullable<CriSettings["streamTls"]>): Promise<KeyPair> {
  if (tls !== "self-signed")
    return { cert: await readFile(tls.certFile, "utf8"), key: await readFile(tls.keyFile, "utf8") };
  const { selfSigned } = await import("./certificate.ts");
  const addresses = Object.values(networkInterfaces()).flatMap((found) => (found ?? []).map(({ address }) => address));
  return selfSigned([hostname(), "localhost"], addresses);
}
