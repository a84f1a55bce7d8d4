/** Events for containerd, in order. It may be away for a moment, as while it restarts: each is tried for some seconds. */
import { setTimeout } from "node:timers/promises";
import { create, type DescMessage, type MessageInitShape } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { forward } from "@berth/spec/shim";
import { packMessage } from "../any.ts";
import { namespaceMetadata } from "../client/task.ts";
import { TtrpcClient } from "@berth/ttrpc";

/** As containerd's own shims: six tries, a second more between each. */
const TRIES = 6;
const PAUSE_MS = 1_000;
const ANSWER_MS = 5_000;
const NS = 1_000_000_000n;

export const timestamp = (ns: bigint): Timestamp =>
  create(TimestampSchema, { seconds: ns / NS, nanos: Number(ns % NS) });
export const now = (): bigint => BigInt(Date.now()) * 1_000_000n;

export class Publisher {
  readonly #address: string;
  readonly #namespace: string;
  readonly #log: (message: string) => void;
  #client: TtrpcClient | undefined;
  #last: Promise<void> = Promise.resolve();

  /** `address`: of the event service; "": nobody wants them. */
  constructor(address: string, namespace: string, log: (message: string) => void) {
    this.#address = address;
    this.#namespace = namespace;
    this.#log = log;
  }

  /** Does not wait for it to be told. */
  publish<S extends DescMessage>(topic: string, schema: S, event: MessageInitShape<S>): void {
    if (this.#address === "") return;
    const envelope = {
      timestamp: timestamp(now()),
      namespace: this.#namespace,
      topic,
      event: packMessage(schema, event),
    };
    this.#last = this.#last.then(() => this.#send(envelope));
  }

  /** What was published has been told, or given up. */
  get settled(): Promise<void> {
    return this.#last;
  }

  close(): void {
    this.#client?.close();
  }

  async #send(envelope: NonNullable<MessageInitShape<typeof forward.ForwardRequestSchema>["envelope"]>): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        this.#client ??= await TtrpcClient.connect(this.#address);
        const options = { timeoutMs: ANSWER_MS, metadata: namespaceMetadata(this.#namespace) };
        await this.#client.call(forward.Events.method.forward, { envelope }, options);
        return;
      } catch (error) {
        this.#client?.close();
        this.#client = undefined;
        if (tries < TRIES) await setTimeout(PAUSE_MS * tries);
        else return this.#log(`event ${envelope.topic ?? ""} could not be told: ${(error as Error).message}`);
      }
    }
  }
}
