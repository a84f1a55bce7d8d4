/** The framed connection to bosun's sockets, against a server that says what the test wants. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Connection } from "../src/bosun/client.ts";
import { decodeHeader, encodeMessage } from "../src/orders/encode.ts";

const answer = (id: number, errno: number) =>
  encodeMessage("report", id, 0, { errno, order: 0xffff_ffff, stage: 0, detail: "", outputs: new Uint8Array() });

test("a stream that is handed over begins behind its answer, whatever its bytes look like and however soon they come", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "berth-connection-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "socket");
  // As a header these would be of a frame of half a gigabyte; and whole frames are none of the connection's business any more.
  const bytes = [
    Buffer.from("0\n         0     200000      65536\r\n/dev/pts/0\r\n"),
    Buffer.from(answer(7, 0)),
    Buffer.from("x"),
  ];
  let next = 0;
  const server = createServer((socket) => {
    socket.once("data", (request: Buffer) => {
      const { id } = decodeHeader(request);
      const behind = bytes[next++];
      socket.end(behind === undefined ? answer(id, 2) : Buffer.concat([answer(id, 0), behind]));
    });
  });
  server.listen(path);
  t.after(() => server.close());
  await once(server, "listening");
  const open = () => Connection.open(path, (reason) => new Error(`lost: ${reason}`));
  for (const expected of bytes) {
    const stream = await (await open()).takeOver("attach", { session: 1, stream: 2 }, "attach");
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    assert.deepEqual(Buffer.concat(chunks), expected);
  }
  const refused = await open();
  await assert.rejects(refused.takeOver("attach", { session: 1, stream: 2 }, "attach"), /^OrderError: attach: ENOENT/);
  assert.equal(refused.isOpen, false);
});
