import assert from "node:assert/strict";
import { test } from "node:test";
import { EncodeError, OrderError, RecordingHand, type Plan } from "../src/index.ts";

const plan: Plan = { orders: [{ order: "unlink", args: { path: "/x" } }] };

test("it keeps what it was asked for, in order", async () => {
  const hand = new RecordingHand();
  await hand.run(plan);
  await hand.spawn({ argv: ["true"], env: {} });
  const created = await hand.monitor({ dir: "/m", plan });
  const tree = await hand.tree("/t");
  await tree.directory(Buffer.from("d"), 0o755, { uid: 0, gid: 0, mtime: 0n });
  await tree.end(true);
  await hand.close();
  assert.deepEqual(
    hand.calls.map(({ call }) => call),
    ["run", "spawn", "monitor", "tree", "close"],
  );
  assert.deepEqual(hand.plans, [plan, plan]);
  assert.ok(created.pid > 0 && created.monitorPid !== created.pid);
  const [recorded] = hand.calls.filter((one) => one.call === "tree");
  assert.deepEqual(
    recorded?.entries.map(({ entry, path }) => [entry, path]),
    [
      ["directory", "d"],
      ["end", undefined],
    ],
  );
});

test("it answers from its script, and refuses what could not go over the wire", async () => {
  const failure = new OrderError("unlink /x: EIO", {
    code: "EIO",
    errno: 5,
    order: 0,
    orderName: "unlink",
    because: undefined,
    where: "stage",
    detail: "",
  });
  const hand = new RecordingHand({
    run: () => Promise.reject(failure),
    spawn: ({ argv }) => ({
      status: argv.length,
      signal: 0,
      stdout: Buffer.from("out"),
      stderr: Buffer.alloc(0),
      truncated: false,
    }),
  });
  await assert.rejects(hand.run(plan), (error) => error === failure);
  assert.equal((await hand.spawn({ argv: ["a", "b"], env: {} })).status, 2);
  await assert.rejects(new RecordingHand().run({ orders: [{ order: "unlink", args: { path: "a\0" } }] }), EncodeError);
});

test("an aborted signal is the reason", async () => {
  const reason = new Error("stop");
  const hand = new RecordingHand();
  await assert.rejects(hand.run(plan, { signal: AbortSignal.abort(reason) }), (error) => error === reason);
  assert.equal(hand.calls.length, 0);
});
