import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { type LogRecord, parseRecord } from "../src/logs/record.ts";
import { readLog, type ReadLogOptions } from "../src/logs/reader.ts";
import { LogWriter } from "../src/logs/writer.ts";
import { Sink } from "./double/index.ts";

function logFile(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "berth-logs-"));
  t.after(() => rmSync(directory, { recursive: true }));
  return join(directory, "0.log");
}

let clock = 0;
const record = (text: string, stream = "stdout", tag = "F"): string =>
  `2026-01-02T03:04:${String(clock++ % 60).padStart(2, "0")}.000000000Z ${stream} ${tag} ${text}\n`;
const lines = (from: number, to: number): string =>
  Array.from({ length: to - from }, (_, index) => record(`line ${from + index}`)).join("");

async function read(path: string, options?: ReadLogOptions): Promise<string[]> {
  const texts: string[] = [];
  for await (const { text, partial } of readLog(path, options)) texts.push(text.toString() + (partial ? "…" : ""));
  return texts;
}

test("records: binary, empty and long texts, further tags; what is no record is passed over", () => {
  const parse = (text: string | Buffer): LogRecord | undefined => parseRecord(Buffer.from(text));
  assert.deepEqual(parse("2026-01-02T03:04:05.123456789Z stderr P half a line"), {
    time: "2026-01-02T03:04:05.123456789Z",
    stream: "stderr",
    partial: true,
    text: Buffer.from("half a line"),
  });
  assert.equal(parse("2026-01-02T03:04:05Z stdout F ")?.text.length, 0);
  assert.equal(parse("2026-01-02T03:04:05Z stdout F")?.text.length, 0);
  assert.equal(parse("2026-01-02T03:04:05Z stdout F  two spaces ")?.text.toString(), " two spaces ");
  assert.equal(parse("2026-01-02T03:04:05Z stdout P:later x")?.partial, true);
  const binary = Buffer.from([0, 255, 13, 128, 32]);
  assert.deepEqual(parse(Buffer.concat([Buffer.from("2026-01-02T03:04:05Z stdout F "), binary]))?.text, binary);
  for (const text of [
    "",
    "x",
    "2026-01-02T03:04:05Z stdlog F x",
    "2026-01-02T03:04:05Z stdout X x",
    "torn stdout F x",
    "\0\0\0\0",
  ])
    assert.equal(parse(text), undefined, text);
});

test("reads a large file whole and in order, whatever falls on a chunk's edge", async (t) => {
  const path = logFile(t);
  const wanted = Array.from({ length: 3000 }, (_, index) => `${index} ${"x".repeat((index * 37) % 400)}`);
  wanted.push("y".repeat(300_000));
  writeFileSync(path, wanted.map((text) => record(text)).join(""));
  assert.deepEqual(await read(path), wanted);
});

test("a torn last line is left out", async (t) => {
  const path = logFile(t);
  writeFileSync(path, `${record("whole")}${record("torn").slice(0, -3)}`);
  assert.deepEqual(await read(path), ["whole"]);
  assert.deepEqual(await read(path, { tail: 1 }), ["whole"]);
});

test("--tail counts lines, not parts", async (t) => {
  const path = logFile(t);
  writeFileSync(path, lines(0, 5000));
  assert.deepEqual(await read(path, { tail: 3 }), ["line 4997", "line 4998", "line 4999"]);
  assert.deepEqual(await read(path, { tail: 0 }), []);
  assert.equal((await read(path, { tail: 6000 })).length, 5000);
  writeFileSync(
    path,
    record("old") + record("a", "stdout", "P") + record("b", "stdout", "P") + record("c") + record("next"),
  );
  assert.deepEqual(await read(path, { tail: 2 }), ["a…", "b…", "c", "next"]);
  assert.deepEqual(await read(path, { tail: 1 }), ["next"]);
});

test("--tail with the streams' parts mixed keeps what belongs to the last lines, and nothing else", async (t) => {
  const path = logFile(t);
  writeFileSync(
    path,
    record("out-1", "stdout", "P") + record("err-old", "stderr") + record("out-2") + record("err-new", "stderr"),
  );
  assert.deepEqual(await read(path, { tail: 2 }), ["out-1…", "out-2", "err-new"]);
  writeFileSync(path, record("old") + record("not ended", "stdout", "P"));
  assert.deepEqual(await read(path, { tail: 1 }), ["not ended…"]);
  writeFileSync(path, "");
  assert.deepEqual(await read(path, { tail: 5 }), []);
});

test("--since", async (t) => {
  const path = logFile(t);
  writeFileSync(path, "2026-01-01T00:00:00.5Z stdout F early\n2026-01-01T00:00:01.5Z stdout F late\n");
  assert.deepEqual(await read(path, { since: Date.parse("2026-01-01T00:00:01Z") }), ["late"]);
});

test("a file that is not there is an error, unless it is waited for", async (t) => {
  const path = logFile(t);
  await assert.rejects(read(path), { code: "ENOENT" });
  const end = new AbortController();
  const following = new Follower(path, end.signal);
  appendFileSync(path, record("came later"));
  await following.until(1);
  end.abort();
  assert.deepEqual(await following.done, ["came later"]);
  end.abort();
  rmSync(path);
  assert.deepEqual(await read(path, { follow: end.signal }), []);
});

/** Follows a log and lets a test wait for what it has got. */
class Follower {
  readonly got: string[] = [];
  readonly done: Promise<string[]>;
  #check: () => void = () => undefined;
  constructor(path: string, follow: AbortSignal, tail?: number) {
    this.done = this.#run(path, follow, tail);
  }
  async #run(path: string, follow: AbortSignal, tail: number | undefined): Promise<string[]> {
    for await (const { text } of readLog(path, { follow, tail })) {
      this.got.push(text.toString());
      this.#check();
    }
    return this.got;
  }
  async until(count: number): Promise<void> {
    while (this.got.length < count) {
      await new Promise<void>((resolve) => {
        this.#check = resolve;
      });
    }
  }
}

test("follows: half a line waits for its end, and what was written before the end is read", async (t) => {
  const path = logFile(t);
  writeFileSync(path, lines(0, 100));
  const end = new AbortController();
  const following = new Follower(path, end.signal, 1);
  await following.until(1);
  const whole = record("in two writes");
  appendFileSync(path, whole.slice(0, 20));
  appendFileSync(path, `${whole.slice(20)}${record("after")}`);
  await following.until(3);
  appendFileSync(path, record("last"));
  end.abort();
  assert.deepEqual(await following.done, ["line 99", "in two writes", "after", "last"]);
});

test("follows across rotation: what the writer still puts into the old file is not lost", async (t) => {
  const path = logFile(t);
  writeFileSync(path, record("before"));
  const end = new AbortController();
  const following = new Follower(path, end.signal);
  await following.until(1);
  renameSync(path, `${path}.1`);
  appendFileSync(`${path}.1`, record("renamed, not reopened"));
  await following.until(2);
  appendFileSync(`${path}.1`, record("just before the reopening"));
  writeFileSync(path, record("new file"));
  await following.until(4);
  end.abort();
  assert.deepEqual(await following.done, ["before", "renamed, not reopened", "just before the reopening", "new file"]);
});

test("follows a file that is truncated in place", async (t) => {
  const path = logFile(t);
  writeFileSync(path, lines(0, 10));
  const end = new AbortController();
  const following = new Follower(path, end.signal);
  await following.until(10);
  truncateSync(path, 0);
  appendFileSync(path, record("fresh"));
  await following.until(11);
  end.abort();
  assert.equal((await following.done).at(-1), "fresh");
});

test("a writer of 20,000 lines beside the reader: none lost, order kept", async (t) => {
  const path = logFile(t);
  writeFileSync(path, "");
  const end = new AbortController();
  const following = new Follower(path, end.signal);
  for (let at = 0; at < 20_000; at += 500) {
    appendFileSync(path, lines(at, at + 500));
    await new Promise(setImmediate);
  }
  end.abort();
  assert.deepEqual(
    await following.done,
    Array.from({ length: 20_000 }, (_, index) => `line ${index}`),
  );
});

test("the writer joins parts, keeps streams apart, and puts a time before each line once", async () => {
  const stdout = new Sink();
  const stderr = new Sink();
  const writer = new LogWriter({ stdout, stderr }, true);
  const put = (text: string, stream: "stdout" | "stderr", partial: boolean) =>
    writer.write([{ time: "T", stream, partial, text: Buffer.from(text) }]);
  await put("a", "stdout", true);
  await put("x", "stderr", false);
  await put("b", "stdout", true);
  await put("c", "stdout", false);
  await put("", "stdout", false);
  assert.equal(stdout.text, "T abc\nT \n");
  assert.equal(stderr.text, "T x\n");
});
