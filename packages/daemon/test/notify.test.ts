/** What a service manager hears. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Plan, RecordingHand } from "@berth/kernel";
import { notifier } from "../src/notify.ts";

const sent = (plans: readonly Plan[]): string[] =>
  plans.flatMap(({ orders }) => orders.map((order) => (order.order === "notify" ? String(order.args.text) : "")));
const unexpected = (error: unknown): void => assert.fail(String(error));

test("ready, reload and stop, and the manager's variables are taken away", async () => {
  const hand = new RecordingHand();
  const environment = { NOTIFY_SOCKET: "/run/manager", PATH: "/bin" };
  const manager = notifier(hand, environment, unexpected);
  assert.deepEqual(environment, { PATH: "/bin" });
  await manager.ready("well");
  await manager.reloading(() => Promise.resolve());
  await manager[Symbol.asyncDispose]();
  const [ready, reloading, again, stopping] = sent(hand.plans);
  assert.equal(ready, `READY=1\nMAINPID=${process.pid}\nSTATUS=well`);
  assert.match(reloading ?? "", /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
  assert.deepEqual([again, stopping], ["READY=1", "STOPPING=1"]);
});

test("the watchdog is fed twice in each period, unless it watches another process", async () => {
  const hand = new RecordingHand();
  const fed = notifier(hand, { NOTIFY_SOCKET: "@manager", WATCHDOG_USEC: "40000" }, unexpected);
  const other = { NOTIFY_SOCKET: "@manager", WATCHDOG_USEC: "40000", WATCHDOG_PID: "1" };
  const unfed = notifier(new RecordingHand(), other, unexpected);
  while (sent(hand.plans).length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  await fed[Symbol.asyncDispose]();
  await unfed[Symbol.asyncDispose]();
  assert.deepEqual(sent(hand.plans).slice(0, 3), ["WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
});

test("without a manager nothing is sent", async () => {
  const hand = new RecordingHand();
  const manager = notifier(hand, {}, unexpected);
  await manager.ready("well");
  await manager[Symbol.asyncDispose]();
  assert.deepEqual(hand.plans, []);
});
