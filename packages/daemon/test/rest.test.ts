/** When memory is given back: after a burst, once it is quiet, and not again for nothing. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { restful } from "../src/rest.ts";

test("a collection once it is quiet and there is something to collect", () => {
  const state = { heap: 30 << 20, busy: 0.2, collections: 0 };
  const look = restful({
    collect: () => {
      state.collections++;
      state.heap = 24 << 20;
    },
    heapUsed: () => state.heap,
    busy: () => state.busy,
  });
  const looked = (change: Partial<typeof state>): number => {
    Object.assign(state, change);
    look();
    return state.collections;
  };
  assert.equal(looked({}), 0, "there is work");
  assert.equal(looked({ busy: 0.001 }), 1);
  for (let looks = 0; looks < 3; looks++) assert.equal(looked({}), 1, "nothing has come since");
  assert.equal(looked({}), 2, "once more, for the code that has not run since");
  for (let looks = 0; looks < 9; looks++) assert.equal(looked({ heap: (24 << 20) + 100_000 }), 2, "too little");
  assert.equal(looked({ heap: 26 << 20, busy: 0.1 }), 2);
  assert.equal(looked({ busy: 0 }), 3);
});
