/** What the URLs of the streaming server stand for. */
import type { Wanted } from "./remote.ts";

export interface ExecRequest extends Wanted {
  readonly kind: "exec";
  readonly containerId: string;
  readonly cmd: readonly string[];
}

export interface AttachRequest extends Wanted {
  readonly kind: "attach";
  readonly containerId: string;
}

export interface PortForwardRequest {
  readonly kind: "portforward";
  readonly sandboxId: string;
  /** Only for clients whose protocol does not name the port with each connection. */
  readonly ports: readonly number[];
}

export type RemoteRequest = ExecRequest | AttachRequest;
export type StreamRequest = RemoteRequest | PortForwardRequest;
