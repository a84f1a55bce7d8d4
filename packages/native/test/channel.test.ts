/** The channel between a machine and its host: bosun's two ends of it, here without a machine between them. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { connectHand, connectMonitor, reachThrough, STREAM, type Order } from "@berth/kernel";
import { NO_SLOT, scratch } from "./bosun.ts";
import {
  bothEnds,
  ended,
  fakeGuest,
  fakeHost,
  FRAME,
  frame,
  listen,
  nonce,
  startGuest,
  startRelay,
  u32,
} from "./channel.ts";

const ENV = ["PATH=/usr/bin:/bin"];
const process_ = (script: string): Order[] => [
  { order: "clone", args: { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 } },
  { order: "setsid", args: {} },
  { order: "park", args: {} },
  { order: "exec", args: { argv: ["/bin/sh", "-c", script], env: ENV, keep: 0 } },
];
const text = async (socket: Socket): Promise<string> => Buffer.concat(await socket.toArray()).toString();

test("a hand and a monitor are reached through the relay", async (t) => {
  const { dir, serve, reach, relay, guest } = await bothEnds(t);
  const hand = await connectHand(serve, reach);
  const { status, stdout } = await hand.spawn({
    argv: ["/bin/sh", "-c", "head -c 3000000 /dev/zero; exit 4"],
    env: { PATH: "/usr/bin:/bin" },
    limit: 4_000_000,
  });
  assert.deepEqual([status, stdout.length], [4, 3_000_000]);
  const place = join(dir, "c");
  mkdirSync(place);
  await hand.monitor({ dir: place, plan: { orders: process_("cat; echo done") }, stdin: true, stdinOnce: true });
  const monitor = await connectMonitor(place, undefined, reach);
  const [stdin, out] = [await monitor.attach(0, STREAM.stdin), await monitor.attach(0, STREAM.stdout)];
  await monitor.start();
  stdin.end("hello\n");
  assert.equal(await text(out), "hello\ndone\n");
  assert.equal((await monitor.exited).code, 0);
  monitor.close();
  await hand.close();
  await ended(guest, "SIGTERM");
  assert.equal(await ended(relay), 0, "the relay ends with the machine");
});

test("a connection that cannot be made says why", async (t) => {
  const { dir, reach } = await bothEnds(t);
  const server = await listen(t, join(dir, "closed"), () => {});
  const over = once(server, "close");
  server.close();
  await over;
  for (const [path, code] of [
    [join(dir, "nothing"), "ENOENT"],
    ["relative", "EINVAL"],
    [`/${"x".repeat(150)}`, "ENAMETOOLONG"],
    [`/${"x".repeat(220)}`, "EINVAL"],
    ["tcp:0", "EINVAL"],
    ["tcp:70000", "EINVAL"],
    ["tcp:1", "ECONNREFUSED"],
  ] as const)
    await assert.rejects(reach(path), (error: NodeJS.ErrnoException) => error.code === code, path);
});

test("ports of the loopback, and streams that are half-closed", async (t) => {
  const { reach } = await bothEnds(t);
  const seen: Buffer[] = [];
  const server = await listen(t, 0, (socket) => {
    socket
      .on("data", (chunk: Buffer) => seen.push(chunk))
      .on("end", () => socket.end(`got ${Buffer.concat(seen).length}`));
  });
  const address = server.address();
  assert.ok(typeof address === "object" && address !== null);
  const socket = await reach(`tcp:${address.port}`);
  socket.end(Buffer.alloc(1_000_000, "x"));
  assert.equal(await text(socket), "got 1000000");
});

test("who vanishes here vanishes there, with what he had sent delivered", async (t) => {
  const { dir, reach } = await bothEnds(t);
  const arrived = Promise.withResolvers<string>();
  await listen(t, join(dir, "sink"), (socket) => {
    let got = "";
    socket.on("data", (chunk) => (got += chunk.toString())).on("end", () => arrived.resolve(got));
  });
  const socket = await reach(join(dir, "sink"));
  socket.write("last words", () => socket.destroy());
  assert.equal(await arrived.promise, "last words");

  await listen(t, join(dir, "rude"), (other) => other.end("bye", () => other.destroy()));
  assert.equal(await text(await reach(join(dir, "rude"))), "bye");
});

test("a stream that nobody reads is held up, and no other", async (t) => {
  const { dir, reach } = await bothEnds(t);
  let written = 0;
  await listen(t, join(dir, "endless"), (socket) => {
    const more = (): void => {
      while (socket.write(Buffer.alloc(65_536), () => (written += 65_536)));
      socket.once("drain", more);
    };
    more();
  });
  await listen(t, join(dir, "echo"), (socket) => socket.pipe(socket));
  const stuck = await reach(join(dir, "endless"));
  stuck.pause();
  for (let round = 0; round < 3; round++) {
    const socket = await reach(join(dir, "echo"));
    const bytes = Buffer.alloc(2_000_000, `round ${round}`);
    socket.end(bytes);
    assert.ok(Buffer.concat(await socket.toArray()).equals(bytes));
  }
  assert.ok(written < 4 << 20, `${written} bytes went into a stream that nobody reads`);
  stuck.destroy();
});

test("many streams at once", async (t) => {
  const { dir, reach } = await bothEnds(t);
  await listen(t, join(dir, "echo"), (socket) => socket.pipe(socket));
  const sizes = Array.from({ length: 60 }, (_, index) => index * 3_001);
  const echoed = await Promise.all(
    sizes.map(async (size) => {
      const socket = await reach(join(dir, "echo"));
      socket.end(Buffer.alloc(size, "m"));
      return Buffer.concat(await socket.toArray()).length;
    }),
  );
  assert.deepEqual(echoed, sizes);
});

test("a relay that is killed is followed by another, and its streams are ended", async (t) => {
  const { dir, serve, relay } = await bothEnds(t);
  const gone = Promise.withResolvers<void>();
  await listen(t, join(dir, "held"), (socket) => socket.resume().on("end", () => gone.resolve()));
  const held = await reachThrough(join(dir, "relay.sock"))(join(dir, "held"));
  await ended(relay, "SIGKILL");
  await gone.promise;
  held.destroy();
  await startRelay(t, dir);
  const hand = await connectHand(serve, reachThrough(join(dir, "relay.sock")));
  assert.equal((await hand.spawn({ argv: ["/bin/true"], env: {} })).status, 0);
  await hand.close();
});

test("the guest finds the next reset behind whatever a former host left", async (t) => {
  const dir = scratch(t);
  await startGuest(t, dir);
  const host = await fakeHost(t, dir);
  const leftovers = [
    Buffer.alloc(0),
    Buffer.from("garbage that is no frame"),
    frame(FRAME.data, 1, Buffer.alloc(30_000)).subarray(0, 7_000), // its body is cut short
    frame(FRAME.data, 1, "body").subarray(0, 10), // its header is
    Buffer.concat([Buffer.from([0x62, 0x73, 0x76]), Buffer.alloc(3), frame(FRAME.shut, 9)]),
    Buffer.alloc(100_000, frame(FRAME.open, 1, "/x").subarray(0, 4)),
  ];
  for (const [index, left] of leftovers.entries()) {
    host.send(left, Buffer.alloc(32_768), frame(FRAME.reset, 0, nonce(index)));
    const answer = await host.next();
    assert.deepEqual([answer.type, answer.body.readUInt32LE()], [FRAME.resetAck, index]);
    // What a host may not do costs the stream, and not the machine.
    host.send(frame(FRAME.open, 1, "/nowhere"));
    const opened = await host.next();
    assert.deepEqual([opened.type, opened.body.readUInt32LE()], [FRAME.opened, 2]);
  }
});

test("a guest that breaks the rules loses its channel, with the reason said", async (t) => {
  const data = frame(FRAME.data, 1, Buffer.alloc(32_768));
  const opened = frame(FRAME.opened, 1, u32(0));
  const breaches: readonly (readonly [what: string, bytes: readonly Buffer[], reason: RegExp])[] = [
    ["garbage", [Buffer.alloc(64, "?")], /bytes that are no frame/],
    ["a frame with a wrong hash", [Buffer.concat([data.subarray(0, 16), u32(7)])], /no frame/],
    ["a body of more than a frame may have", [frame(FRAME.data, 1, Buffer.alloc(32_769))], /no frame/],
    ["a stream of its own", [frame(FRAME.open, 2, "/etc/passwd")], /a stream that the guest opens/],
    ["a reset", [frame(FRAME.reset, 0, nonce(1))], /a reset from the guest/],
    ["an answer to no reset", [frame(FRAME.resetAck, 0, nonce(1))], /nobody asked for/],
    ["a stream that is not there", [frame(FRAME.data, 77, "x")], /never opened/],
    ["data before it has answered", [frame(FRAME.data, 1, "x")], /more data than there is room for/],
    ["an answer twice", [opened, opened], /opened twice/],
    ["more than there is room for", [opened, ...Array.from({ length: 64 }, () => data)], /room for/],
    ["room that is not there", [opened, frame(FRAME.give, 1, u32(1))], /more room/],
    ["data after its end", [opened, frame(FRAME.shut, 1), frame(FRAME.data, 1, "x")], /after the end/],
  ];
  for (const [what, bytes, reason] of breaches)
    await t.test(what, async (nested) => {
      const dir = scratch(nested);
      const { frames, relay } = await fakeGuest(nested, dir);
      const reached = reachThrough(join(dir, "relay.sock"))("/path");
      reached.then(
        (socket) => socket.pause(), // its window stays closed
        () => {},
      );
      const open = await frames.next();
      assert.deepEqual([open.type, open.stream, open.body.toString()], [FRAME.open, 1, "/path"]);
      frames.send(...bytes);
      assert.equal(await ended(relay), 1);
      assert.match(relay.said(), reason);
      await reached.then(
        (socket) => socket.destroy(),
        () => {},
      );
    });
});

test("callers that do not keep to the lines are dropped", async (t) => {
  const { dir, reach, relay } = await bothEnds(t);
  for (const words of [
    "GET / HTTP/1.1\r\n\r\n",
    "CONNECT 1025\n",
    `CONNECT ${"1".repeat(500)}`,
    "CONNECT 1024\nPASS x\n",
    "CONNECT 1024\nPATH a\0b\n",
  ]) {
    const socket = connect(join(dir, "relay.sock"));
    let answers = "";
    socket.on("data", (chunk: Buffer) => (answers += chunk.toString())).on("error", () => {}); // reset, where it read too little
    const closed = Promise.withResolvers<void>();
    socket.once("close", () => closed.resolve());
    socket.write(words);
    await closed.promise;
    assert.doesNotMatch(answers, /^OK$/m, words);
  }
  await assert.rejects(reach(join(dir, "nothing")), { code: "ENOENT" });
  assert.equal(relay.process.exitCode, null);
});
