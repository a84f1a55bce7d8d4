/** The streaming server's settings, with its certificate read. */
import { readFile } from "node:fs/promises";
import type { CriSettings } from "../settings.ts";

export interface StreamingOptions {
  readonly address: string;
  /** 0: any free one. */
  readonly port: number;
  /** ms without a byte either way, after which a connection is closed; 0: never. */
  readonly idleTimeoutMs: number;
  /** ms for a client to make the streams it has announced. */
  readonly creationTimeoutMs: number;
  /** PEM. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
}

/** The kubelet's and containerd's default. */
const CREATION_TIMEOUT_MS = 30_000;

export async function streamingOptions(settings: CriSettings): Promise<StreamingOptions> {
  const { streamAddress: address, streamPort: port, streamIdleMs: idleTimeoutMs, streamTls } = settings;
  const tls = streamTls && {
    cert: await readFile(streamTls.certFile, "utf8"),
    key: await readFile(streamTls.keyFile, "utf8"),
  };
  return { address, port, idleTimeoutMs, creationTimeoutMs: CREATION_TIMEOUT_MS, tls };
}
