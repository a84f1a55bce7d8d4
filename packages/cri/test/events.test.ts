/** The memory of events, without a daemon. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { Events } from "../src/events.ts";

const event = (containerId: string) => create(cri.ContainerEventResponseSchema, { containerId });

/** Follows until `count` events came, or until what is there now was sent. */
async function read(events: Events, count: number): Promise<string[]> {
  const abort = new AbortController();
  const ids: string[] = [];
  await events.follow(abort.signal, ({ containerId }) => {
    ids.push(containerId);
    if (ids.length === count) abort.abort();
    return Promise.resolve();
  });
  return ids;
}

test("what was written to a stream that broke at once is told again; what it has surely read is not", async () => {
  let clock = 1_000_000;
  const events = new Events({ clock: () => clock });
  for (const id of ["a", "b", "c"]) events.emit(event(id));
  assert.deepEqual(await read(events, 3), ["a", "b", "c"]);
  assert.deepEqual(await read(events, 3), ["a", "b", "c"], "broken within the second: perhaps never read");
  const abort = new AbortController();
  const seen: string[] = [];
  const reading = events.follow(abort.signal, ({ containerId }) => {
    seen.push(containerId);
    return Promise.resolve();
  });
  await new Promise(setImmediate);
  clock += 5_000;
  events.emit(event("d"));
  await new Promise(setImmediate);
  abort.abort();
  await reading;
  assert.deepEqual(seen, ["a", "b", "c", "d"]);
  assert.deepEqual(await read(events, 1), ["d"]);
});

test("after the retention events are forgotten", async () => {
  let clock = 1_000_000;
  const events = new Events({ clock: () => clock, retention: 60_000 });
  events.emit(event("old"));
  clock += 59_000;
  events.emit(event("young"));
  clock += 2_000;
  assert.deepEqual(await read(events, 1), ["young"]);
  clock += 60_000;
  events.emit(event("new"));
  assert.deepEqual(await read(events, 1), ["new"]);
});

test("an event that comes while another is being sent is not lost", async () => {
  const events = new Events();
  const abort = new AbortController();
  const ids: string[] = [];
  events.emit(event("first"));
  await events.follow(abort.signal, async ({ containerId }) => {
    if (containerId === "first") {
      events.emit(event("second"));
      await new Promise(setImmediate);
      events.emit(event("third"));
    }
    ids.push(containerId);
    if (ids.length === 3) abort.abort();
  });
  assert.deepEqual(ids, ["first", "second", "third"]);
});

test("a client whose stream fails ends its own stream alone; closing ends all", async () => {
  const events = new Events();
  events.emit(event("a"));
  await assert.rejects(
    events.follow(new AbortController().signal, () => Promise.reject(new Error("gone"))),
    /gone/,
  );
  const ids: string[] = [];
  const reading = events.follow(new AbortController().signal, ({ containerId }) => {
    ids.push(containerId);
    return Promise.resolve();
  });
  await new Promise(setImmediate);
  events.close();
  await reading;
  assert.deepEqual(ids, ["a"]);
});
