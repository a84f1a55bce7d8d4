/** The daemon's two stores of pods and containers, with the names that the kubelet must not see twice. */
import type { DatabaseSync } from "node:sqlite";
import type { Log } from "../log.ts";
import { containerCodec, sandboxCodec } from "./records-codec.ts";
import type { Container, ContainerRecord, Sandbox, SandboxRecord } from "./records.ts";
import { Store } from "./store.ts";

const onFull =
  (log: Log) =>
  (error: Error, id: string): void =>
    log.error({ id, err: error }, "the disk of the database is full: a change waits to be recorded; make room");

export const sandboxStore = (database: DatabaseSync, log: Log): Store<SandboxRecord, Sandbox> =>
  new Store({
    database,
    table: "sandboxes",
    kind: "pod sandbox",
    onFull: onFull(log),
    codec: sandboxCodec,
    nameOf: ({ config: { metadata } }) =>
      [metadata?.name, metadata?.namespace, metadata?.uid, metadata?.attempt].join("_"),
  });

export const containerStore = (database: DatabaseSync, log: Log): Store<ContainerRecord, Container> =>
  new Store({
    database,
    table: "containers",
    kind: "container",
    onFull: onFull(log),
    codec: containerCodec,
    nameOf: ({ config: { metadata }, sandboxId }) => [metadata?.name, metadata?.attempt, sandboxId].join("_"),
  });
