import assert from "node:assert/strict";
import { test } from "node:test";
import { tallyProcesses } from "@berth/kernel";

test("states are counted behind names that look like states, sockets among descriptors, and the first one's limit", () => {
  const looks = [
    { stat: "1 (init) S 0 1", descriptors: ["/dev/null", "socket:[1]"] },
    { stat: "7 (a) R (b) D 1 7", descriptors: ["socket:[2]", "pipe:[3]", "/tmp/socket:"] },
    { stat: "8 (z) Z 1 8", descriptors: [] },
    { stat: "9 (idle) I 1 9", descriptors: [] },
  ];
  const limits =
    "Limit                     Soft Limit           Hard Limit\nMax open files            1024                 4096  files\n";
  assert.deepEqual(tallyProcesses(looks, limits), {
    processes: 4,
    descriptors: 5,
    sockets: 2,
    softNofile: 1024n,
    states: { running: 0, sleeping: 2, stopped: 0, uninterruptible: 1, iowaiting: 0 },
  });
  assert.equal(
    tallyProcesses([], "Max open files            unlimited            unlimited files\n").softNofile,
    undefined,
  );
});
