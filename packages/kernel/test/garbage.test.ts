/** A machine whose bosun is somebody else's now: whatever it answers, calls fail, in time and with an error of their own. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import fc from "fast-check";
import { connectHand, connectMonitor, HandLost, MonitorLost, OrderError, reachThrough } from "../src/index.ts";
import { decodeHeader, encodeMessage, HEADER_SIZE } from "../src/orders/encode.ts";
import { MESSAGES } from "../src/orders/messages.ts";
import { PLAN_VERSION } from "../src/orders/table.ts";

/** A relay whose guest is `guest`: each connection is given to it once the path has been said. */
async function relay(t: TestContext, guest: (socket: Socket) => void): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), "berth-garbage-"));
  const path = join(directory, "relay");
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    socket.on("error", () => {});
    let lines = "";
    const onData = (chunk: Buffer): void => {
      lines += chunk.toString("latin1");
      const said = lines.split("\n").length - 1;
      if (lines.startsWith("CONNECT") && said === 1) socket.write("OK 1024\n");
      if (said < 2) return;
      socket.off("data", onData);
      socket.write("OK\n");
      guest(socket);
    };
    socket.on("data", onData);
  }).listen(path);
  await once(server, "listening");
  t.after(() => {
    for (const socket of open) socket.destroy();
    server.close();
    rmSync(directory, { recursive: true });
  });
  return path;
}

const isOwn = (error: unknown): boolean =>
  error instanceof HandLost || error instanceof MonitorLost || error instanceof OrderError;

/** Every frame that looks like one, with any body. */
const frame = fc
  .record({
    type: fc.oneof(
      fc.constantFrom(...Object.values(MESSAGES).map(({ type }) => type)),
      fc.integer({ min: 0, max: 0xffff }),
    ),
    id: fc.integer({ min: 0, max: 3 }),
    body: fc.uint8Array({ maxLength: 96 }),
  })
  .map(({ type, id, body }) => {
    const header = Buffer.alloc(HEADER_SIZE);
    header.writeUInt32LE(body.length, 0);
    header.writeUInt32LE(id, 4);
    header.writeUInt16LE(type, 8);
    return Buffer.concat([header, body]);
  });
const garbage = fc.oneof(
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  fc.array(frame, { minLength: 1, maxLength: 3 }).map((frames) => Buffer.concat(frames)),
);

test("a hand in a machine that talks nonsense", async (t) => {
  let said: Buffer = Buffer.alloc(0);
  const path = await relay(t, (socket) => socket.once("data", () => socket.end(said)));
  await fc.assert(
    fc.asyncProperty(garbage, async (bytes) => {
      said = bytes;
      await assert.rejects(connectHand("/serve.sock", reachThrough(path)), isOwn);
    }),
    { numRuns: 60 },
  );
});

test("a hand whose machine begins to talk nonsense", async (t) => {
  let said: Buffer = Buffer.alloc(0);
  const path = await relay(t, (socket) => {
    socket.once("data", (request: Buffer) => {
      socket.write(encodeMessage("welcome", decodeHeader(request).id, 0, { version: PLAN_VERSION, pid: 1 }));
      socket.once("data", () => socket.end(said));
    });
  });
  await fc.assert(
    fc.asyncProperty(garbage, async (bytes) => {
      said = bytes;
      const hand = await connectHand("/serve.sock", reachThrough(path));
      try {
        // A report that happens to be one is an answer; outputs of it are not looked into.
        await hand.run({ orders: [{ order: "hostname", args: { hostname: "x", domainname: "" } }] });
      } catch (error) {
        assert.ok(
          isOwn(error) || (error instanceof Error && /bosun answered|outputs|decode/i.test(error.message)),
          String(error),
        );
      } finally {
        await hand.close();
      }
    }),
    { numRuns: 60 },
  );
});

test("a container's monitor that talks nonsense", async (t) => {
  let said: Buffer = Buffer.alloc(0);
  const path = await relay(t, (socket) => socket.once("data", () => socket.end(said)));
  await fc.assert(
    fc.asyncProperty(garbage, async (bytes) => {
      said = bytes;
      const link = await connectMonitor("/c/id", undefined, reachThrough(path));
      await Promise.all([
        link.state().then(
          () => {},
          (error: unknown) => assert.ok(error instanceof Error),
        ),
        link.exited.then(
          () => {},
          (error: unknown) => assert.ok(error instanceof Error),
        ),
      ]);
      link.close();
    }),
    { numRuns: 60 },
  );
});

test("a frame is no larger than a machine's may be, and may come a byte at a time", async (t) => {
  const size = 1 << 16;
  const answer = (id: number): Buffer =>
    Buffer.from(
      encodeMessage("report", id, 0, {
        errno: 2,
        order: 0xffff_ffff,
        stage: 0,
        detail: "x".repeat(size),
        outputs: new Uint8Array(),
      }),
    );
  let isLarge = false;
  const path = await relay(t, (socket) => {
    socket.setNoDelay(true);
    socket.once("data", (request: Buffer) => {
      const bytes = answer(decodeHeader(request).id);
      if (!isLarge) return void drip(socket, bytes, 0);
      // As large as it says it will be.
      const header = Buffer.from(bytes.subarray(0, HEADER_SIZE));
      header.writeUInt32LE(64 << 20, 0);
      socket.write(header);
    });
  });
  const drip = (socket: Socket, bytes: Buffer, at: number): void => {
    if (at < bytes.length) socket.write(bytes.subarray(at, at + 64), () => drip(socket, bytes, at + 64));
  };
  const failed: unknown = await connectHand("/serve.sock", reachThrough(path)).catch((error: unknown) => error);
  assert.ok(failed instanceof HandLost);
  const { length } = failed.message.replaceAll(/[^x]/g, "");
  assert.equal(length, 8192);
  isLarge = true;
  await assert.rejects(connectHand("/serve.sock", reachThrough(path)), /a frame of 67108864 bytes/);
});
