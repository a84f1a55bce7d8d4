/** The real hand, against a real bosun. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  atLeast,
  connectMonitor,
  HandLost,
  MonitorLost,
  MNT_DETACH,
  NO_SLOT,
  OrderError,
  O,
  probeHost,
  readRecord,
  startHand,
  type Order,
  type Plan,
} from "../src/index.ts";
import { Bench, BOSUN, canServe } from "./support/hand.ts";

const plan = (...orders: Order[]): Plan => ({ orders });
/** A worker that waits for ever: a FIFO that nobody opens. */
function blocking(directory: string): Plan {
  return plan({
    order: "open",
    args: { slot: 0, path: join(directory, "fifo"), flags: BigInt(O.RDONLY) },
    because: "the test",
  });
}

test("a plan is carried out, and its outputs come back by order", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  await writeFile(join(bench.directory, "file"), "contents");
  const outputs = await bench.hand.run(
    plan(
      { order: "mkdir", args: { path: join(bench.directory, "a/b"), mode: 0o750, existOk: 0, parents: 1 } },
      { order: "open", args: { slot: 0, path: bench.directory, flags: BigInt(O.PATH | O.DIRECTORY) } },
      { order: "read_in", args: { root: 0, path: "/file", max: 100 } },
      { order: "read_in", args: { root: 0, path: "/absent", max: 100 } },
    ),
  );
  assert.equal((await stat(join(bench.directory, "a/b"))).mode & 0o7777, 0o750);
  assert.deepEqual([...outputs.keys()], [2, 3]);
  assert.equal(Buffer.from(outputs.get(2) ?? []).toString(), "contents");
  assert.equal(outputs.get(3), undefined);
});

test("a failing order is told in words, with what asked for it", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  const failing = bench.hand.run(
    plan(
      { order: "mkdir", args: { path: join(bench.directory, "made"), mode: 0o755, existOk: 0, parents: 0 } },
      { order: "open_tree", args: { slot: 1, path: "/no/such/volume", recursive: 1 }, because: "mounts[3]" },
      { order: "mkdir", args: { path: join(bench.directory, "never"), mode: 0o755, existOk: 0, parents: 0 } },
    ),
  );
  await assert.rejects(failing, (error: Error) => {
    assert.ok(error instanceof OrderError);
    assert.equal(
      error.message,
      "clone mount tree /no/such/volume recursively (mounts[3]): ENOENT: open_tree /no/such/volume; the source must be there on the host before the container is made",
    );
    assert.deepEqual(
      [error.code, error.order, error.orderName, error.because, error.where],
      ["ENOENT", 1, "open_tree", "mounts[3]", "stage"],
    );
    return true;
  });
  assert.deepEqual((await readdir(bench.directory)).sort(), ["made", "state"]);
});

test("calls run side by side, each with its own answer", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  await mkdir(join(bench.directory, "many"));
  const make = (name: string) =>
    bench.hand.run(
      plan({
        order: "mkdir",
        args: { path: join(bench.directory, "many", name), mode: 0o755, existOk: 0, parents: 0 },
      }),
    );
  const names = Array.from({ length: 40 }, (_, index) => `d${index}`);
  const results = await Promise.allSettled([...names, "d0"].map(make));
  assert.equal(results.filter(({ status }) => status === "rejected").length, 1);
  assert.equal((await readdir(join(bench.directory, "many"))).length, 40);
});

test("a deadline kills the work; an abort ends it with the signal's reason", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  await bench.hand.spawn({ argv: ["/usr/bin/mkfifo", join(bench.directory, "fifo")], env: {} });
  const stuck = blocking(bench.directory);
  await assert.rejects(
    bench.hand.run(stuck, { timeoutMs: 50 }),
    (error: Error) => error instanceof OrderError && error.code === "ETIMEDOUT",
  );
  const abort = new AbortController();
  const reason = new Error("not wanted any more");
  const running = bench.hand.run(stuck, { signal: abort.signal });
  // The next call is answered after the first was begun: they share one connection, in order.
  await bench.hand.run(plan());
  abort.abort(reason);
  await assert.rejects(running, (error) => error === reason);
  await assert.rejects(bench.hand.run(stuck, { signal: abort.signal }), (error) => error === reason);
  await bench.hand.run(plan());
});

test("programs: status, both outputs, stdin, environment, directory, limit", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  const result = await bench.hand.spawn({
    argv: ["/bin/sh", "-c", "cat; pwd; echo $GREETING >&2; exit 3"],
    env: { GREETING: "hello", PATH: "/bin:/usr/bin" },
    cwd: bench.directory,
    stdin: Buffer.from("in\n"),
  });
  assert.deepEqual([result.status, result.signal, result.truncated], [3, 0, false]);
  assert.equal(Buffer.from(result.stdout).toString(), `in\n${bench.directory}\n`);
  assert.equal(Buffer.from(result.stderr).toString(), "hello\n");
  const long = await bench.hand.spawn({
    argv: ["/bin/sh", "-c", "head -c 100000 /dev/zero"],
    env: { PATH: "/bin:/usr/bin" },
    limit: 1000,
  });
  assert.deepEqual([long.stdout.length, long.truncated], [1000, true]);
  const killed = await bench.hand.spawn({ argv: ["/bin/sh", "-c", "kill -TERM $$"], env: {} });
  assert.deepEqual([killed.status, killed.signal], [128 + 15, 15]);
  await assert.rejects(
    bench.hand.spawn({ argv: ["/no/such/program"], env: {} }),
    (error: Error) =>
      error instanceof OrderError && error.code === "ENOENT" && error.message.includes("/no/such/program"),
  );
});

test("a lost serve fails what it was doing, and the next call gets a new one", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  await bench.hand.spawn({ argv: ["/usr/bin/mkfifo", join(bench.directory, "fifo")], env: {} });
  const result = await bench.hand.spawn({ argv: ["/bin/sh", "-c", "echo $PPID"], env: {} });
  const serve = Number(Buffer.from(result.stdout).toString());
  assert.ok(serve > 1);
  const pending = bench.hand.run(blocking(bench.directory));
  const outcome = assert.rejects(
    pending,
    (error: Error) => error instanceof HandLost && error.message.startsWith("bosun serve: "),
  );
  process.kill(serve, "SIGKILL");
  await outcome;
  const again = await Promise.all(
    [1, 2, 3].map(() => bench.hand.spawn({ argv: ["/bin/sh", "-c", "echo $PPID"], env: {} })),
  );
  const serves = new Set(again.map(({ stdout }) => Buffer.from(stdout).toString().trim()));
  assert.equal(serves.size, 1, "concurrent calls share one new serve");
  assert.ok(!serves.has(String(serve)));
});

test("a bosun that does not come up is told with what it said", async (t) => {
  if (!(await canServe(t))) return;
  const directory = await mkdtemp(join(tmpdir(), "berth-kernel-"));
  t.after(() => rm(directory, { recursive: true }));
  const broken = join(directory, "broken");
  await writeFile(broken, "#!/bin/sh\necho 'no luck' >&2\nexit 4\n", { mode: 0o755 });
  await assert.rejects(
    startHand({ bosun: broken, state: join(directory, "state") }),
    (error: Error) =>
      error instanceof HandLost && error.message === "bosun serve ended (status 4) before it was ready: no luck",
  );
  await assert.rejects(
    startHand({ bosun: join(directory, "absent"), state: join(directory, "state") }),
    (error: Error) => error instanceof HandLost && /ENOENT/.test(error.message),
  );
});

test("after close nothing is served, and serve is gone", async (t) => {
  if (!(await canServe(t))) return;
  const directory = await mkdtemp(join(tmpdir(), "berth-kernel-"));
  t.after(() => rm(directory, { recursive: true }));
  const hand = await startHand({ bosun: BOSUN, state: directory });
  const serve = Number(
    Buffer.from((await hand.spawn({ argv: ["/bin/sh", "-c", "echo $PPID"], env: {} })).stdout).toString(),
  );
  await hand.close();
  assert.throws(() => process.kill(serve, 0), { code: "ESRCH" });
  await assert.rejects(hand.run(plan()), HandLost);
});

test("state directories deeper than a socket's name", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start(join("d".repeat(100), "e".repeat(60)));
  await bench.hand.run(plan());
});

test("a tree with every kind of entry", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  const root = join(bench.directory, "tree");
  await mkdir(root);
  const tree = await bench.hand.tree(root);
  const meta = { uid: 3, gid: 4, mtime: 1_000_000_000_500_000_000n };
  const name = (text: string) => Buffer.from(text);
  await tree.directory(name("dir"), 0o2755, meta);
  await tree.file(name("dir/file"), 0o640, 12n, { ...meta, xattrs: new Map([["user.test", Buffer.from([1, 0, 2])]]) });
  await tree.data(Buffer.from("head"));
  await tree.hole(4n);
  await tree.data(Buffer.from("tail"));
  await tree.symlink(name("link"), name("../up"), meta);
  await tree.hardlink(name("hard"), name("dir/file"));
  await tree.node(name("null"), 0o020_666, 1, 3, meta);
  await tree.file(Buffer.from([0x62, 0xff, 0x63]), 0o600, 0n, meta);
  await tree.end(true);
  assert.equal((await stat(join(root, "dir"))).mode & 0o7777, 0o2755);
  assert.equal((await readFile(join(root, "hard"))).toString(), "head\0\0\0\0tail");
  const file = await lstat(join(root, "dir/file"), { bigint: true });
  assert.deepEqual(
    [file.uid, file.gid, file.mode & 0o7777n, file.nlink, file.mtimeNs],
    [3n, 4n, 0o640n, 2n, meta.mtime],
  );
  assert.equal(await readlink(join(root, "link")), "../up");
  assert.ok((await lstat(join(root, "null"))).isCharacterDevice());
  assert.deepEqual(
    (await readdir(Buffer.from(root), { encoding: "buffer" })).filter((one) => one.includes(0xff)).length,
    1,
  );
});

test("a tree of many entries and megabytes arrives whole", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  const root = join(bench.directory, "tree");
  await mkdir(root);
  const tree = await bench.hand.tree(root);
  const meta = { uid: 0, gid: 0, mtime: 1n };
  const chunk = Buffer.alloc(256 << 10, 7);
  for (let index = 0; index < 300; index++) await tree.file(Buffer.from(`f${index}`), 0o644, 0n, meta);
  await tree.file(Buffer.from("big"), 0o644, BigInt(chunk.length) * 40n, meta);
  for (let index = 0; index < 40; index++) await tree.data(chunk);
  await tree.end(false);
  assert.equal((await readdir(root)).length, 301);
  assert.equal((await stat(join(root, "big"))).size, chunk.length * 40);
});

test("a tree's failure comes as soon as it is known, and at the end at the latest", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  await assert.rejects(
    bench.hand.tree(join(bench.directory, "absent")),
    (error: Error) => error instanceof OrderError && error.code === "ENOENT",
  );
  const root = join(bench.directory, "tree");
  await mkdir(root);
  const tree = await bench.hand.tree(root);
  await tree.hardlink(Buffer.from("a"), Buffer.from("nothing"));
  await assert.rejects(tree.end(false), (error: Error) => error instanceof OrderError && error.code === "ENOENT");
  const aborted = await bench.hand.tree(root);
  await aborted.abort();
  await assert.rejects(aborted.data(Buffer.from("x")), /aborted/);
});

test("where no monitor listens", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "berth-kernel-"));
  t.after(() => rm(directory, { recursive: true }));
  await assert.rejects(
    connectMonitor(directory),
    (error: Error) => error instanceof MonitorLost && /monitor\.sock: ENOENT/.test(error.message),
  );
  assert.equal(await readRecord(directory), undefined);
  await writeFile(join(directory, "record"), "version 2\n");
  await assert.rejects(readRecord(directory), /version 2; this berth reads 1/);
});

test("a monitor that goes is lost; a link that is closed says nothing of its container", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "berth-kernel-"));
  t.after(() => rm(directory, { recursive: true }));
  const clients = new Set<Socket>();
  const server = createServer((client) => void clients.add(client.on("error", () => {})));
  server.listen(join(directory, "monitor.sock"));
  t.after(() => server.close());
  await once(server, "listening");

  const closed = await connectMonitor(directory);
  let settled = false;
  void closed.exited.then(
    () => (settled = true),
    () => (settled = true),
  );
  closed.close();
  // The other's loss is told after the first link's end has run its course.
  const lost = await connectMonitor(directory);
  while (clients.size < 2) await new Promise(setImmediate);
  for (const client of clients) client.destroy();
  await assert.rejects(lost.exited, MonitorLost);
  assert.equal(settled, false);
});

test("the kernel's features are tried, not guessed", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  const host = await probeHost(bench.hand);
  if (atLeast(host.kernel.version, 6, 13)) assert.ok(host.features.lowerdirPlus && host.features.lowerdirFd);
  const mounted = join(bench.directory, "mounted");
  await mkdir(mounted);
  // A mount made by one call is taken away by the next: they share the host's mount namespace.
  await bench.hand.run(
    plan(
      {
        order: "fs_mount",
        args: { slot: 0, fstype: "tmpfs", source: "none", options: ["size=64k"], attrs: 0n, fdKeys: [], fdSlots: [] },
      },
      {
        order: "mount_attr",
        args: { slot: 0, set: 1n, clear: 0n, propagation: 0n, recursive: 0, usernsSlot: NO_SLOT },
      },
      { order: "attach_host", args: { slot: 0, target: mounted } },
    ),
  );
  await assert.rejects(writeFile(join(mounted, "x"), ""), { code: "EROFS" });
  await bench.hand.run(plan({ order: "unmount", args: { path: mounted, flags: MNT_DETACH } }));
  await writeFile(join(mounted, "x"), "");
});
