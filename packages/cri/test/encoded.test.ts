/** Lists whose items are kept as bytes say what is so: whatever an item shows can change, and its bytes with it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { containerItem, containerItems } from "../src/container/status.ts";
import type { CriContext } from "../src/context.ts";
import { sandboxItem, sandboxItems } from "../src/sandbox/status.ts";
import { ItemEncoder } from "../src/server/encoded.ts";
import type { ContainerRecord, SandboxRecord } from "../src/store/records.ts";

const metadata = { name: "web", attempt: 1 };

function containerRecord(id: string): ContainerRecord {
  return {
    id,
    sandboxId: "pod",
    config: create(cri.ContainerConfigSchema, {
      metadata,
      image: { image: "asked:1", annotations: { a: "b" } },
      labels: { app: "wéb" },
      annotations: { note: "x".repeat(300) },
    }),
    createdAt: 1_700_000_000_123_456_789n,
    imageId: "sha256:1",
    imageRef: "repo@sha256:2",
    logPath: "",
    cgroupPath: "/x",
    stopSignal: 15,
    user: { uid: 0, gid: 0, additionalGids: [] },
    phase: "created",
    pid: 1,
    startedAt: 0n,
    finishedAt: 0n,
    exitCode: 0,
    reason: "",
    message: "",
  };
}

/** As much of a context as items look at: the tags of the one image. */
const withTags = (tags: string[]): CriContext => ({ images: { find: () => ({ tags }) } }) as unknown as CriContext;

test("a list of containers is what encoding it whole would have made, at each state and tag", () => {
  const tags = ["repo:first"];
  const context = withTags(tags);
  const items = containerItems(context);
  const records = ["one", "two", "three"].map(containerRecord);
  const agrees = (): void => {
    const read = fromBinary(cri.ListContainersResponseSchema, items.encode(records).bytes);
    const containers = records.map((record) => containerItem(context, record));
    assert.deepEqual(read, create(cri.ListContainersResponseSchema, { containers }));
    const streamed = fromBinary(cri.StreamContainersResponseSchema, items.encode(records).bytes);
    assert.deepEqual(streamed, create(cri.StreamContainersResponseSchema, { containers }));
  };
  agrees();
  for (const phase of ["starting", "running", "exited"] as const) {
    for (const record of records) {
      record.phase = phase;
      agrees();
    }
  }
  tags[0] = "repo:second";
  agrees();
  tags.length = 0;
  agrees();
  assert.equal(items.encode([]).bytes.length, 0);
});

test("a list of pods is what encoding it whole would have made, at each state", () => {
  const items = sandboxItems();
  const record: SandboxRecord = {
    id: "pod",
    config: create(cri.PodSandboxConfigSchema, {
      metadata: { name: "p", namespace: "n", uid: "u", attempt: 2 },
      labels: { app: "web" },
    }),
    handler: "runc",
    createdAt: 5n,
    phase: "ready",
    networked: false,
    ips: [],
  };
  for (const phase of ["ready", "notready", "ready"] as const) {
    record.phase = phase;
    const read = fromBinary(cri.ListPodSandboxResponseSchema, items.encode([record]).bytes);
    assert.deepEqual(read, create(cri.ListPodSandboxResponseSchema, { items: [sandboxItem(record)] }));
    const streamed = fromBinary(cri.StreamPodSandboxesResponseSchema, items.encode([record]).bytes);
    assert.deepEqual(streamed, create(cri.StreamPodSandboxesResponseSchema, { podSandboxes: [sandboxItem(record)] }));
  }
});

test("an item is encoded once for as long as its inputs are the same", () => {
  let made = 0;
  const items = new ItemEncoder({
    field: 1,
    schema: cri.VersionResponseSchema,
    inputs: (record: { version: string }) => [record.version],
    message: ({ version }) => {
      made++;
      return create(cri.VersionResponseSchema, { version });
    },
  });
  const record = { version: "1" };
  items.encode([record]);
  items.encode([record]);
  assert.equal(made, 1);
  record.version = "2";
  items.encode([record]);
  assert.equal(made, 2);
});
