/** The daemon's two stores of pods and containers, with the names that the kubelet must not see twice. */
import type { DatabaseSync } from "node:sqlite";
import { containerCodec, sandboxCodec } from "./records-codec.ts";
import type { Container, ContainerRecord, Sandbox, SandboxRecord } from "./records.ts";
import { Store } from "./store.ts";

export const sandboxStore = (database: DatabaseSync): Store<SandboxRecord, Sandbox> =>
  new Store({
    database,
    table: "sandboxes",
    kind: "pod sandbox",
    codec: sandboxCodec,
    nameOf: ({ config: { metadata } }) =>
      [metadata?.name, metadata?.namespace, metadata?.uid, metadata?.attempt].join("_"),
  });

export const containerStore = (database: DatabaseSync): Store<ContainerRecord, Container> =>
  new Store({
    database,
    table: "containers",
    kind: "container",
    codec: containerCodec,
    nameOf: ({ config: { metadata }, sandboxId }) => [metadata?.name, metadata?.attempt, sandboxId].join("_"),
  });
