import assert from "node:assert/strict";
import {
  mkdirSync,
  readdirSync,
  renameSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { CLONE, type Container, exec, plan, runToEnd, serve, sh, until } from "./client.ts";
import { parseLog, rejoin } from "./cri-log.ts";

async function logOf(t: TestContext, script: string, options: Record<string, number> = {}): Promise<Buffer> {
  const c = await (await serve(t)).container(sh(script), options);
  await runToEnd(c);
  return c.logged();
}

test("the exact bytes of an entry", async (t) => {
  const start = Date.now();
  const log = String(
    await logOf(t, "echo out; sleep 0.02; echo err >&2; sleep 0.02; echo; printf 'a\\r\\n'; printf unfinished"),
  );
  const [out, err, empty, cr, unfinished] = log.split("\n");
  const time = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) /;
  assert.equal(out?.replace(time, ""), "stdout F out");
  assert.equal(err?.replace(time, ""), "stderr F err");
  assert.equal(empty?.replace(time, ""), "stdout F ");
  assert.equal(cr?.replace(time, ""), "stdout F a\r");
  assert.equal(unfinished?.replace(time, ""), "stdout P unfinished");
  const stamp = Date.parse(time.exec(out ?? "")?.[1] ?? "");
  assert.ok(stamp >= start - 1 && stamp <= Date.now() + 1);
});

test("no log path: nothing is written, nothing blocks", async (t) => {
  const s = await serve(t);
  const c = await s.container(sh("head -c 1000000 /dev/zero; exit 2"), { logPath: "" });
  assert.equal((await runToEnd(c))["code"], 2);
});

test("an existing log is appended to", async (t) => {
  const s = await serve(t);
  const log = join(s.directory, "log");
  for (const word of ["one", "two"]) await runToEnd(await s.container(sh(`echo ${word}`), { logPath: log }));
  assert.deepEqual(
    parseLog(readFileSync(log)).map((line) => String(line.content)),
    ["one", "two"],
  );
});

test("100,000 lines from a fast writer on both streams: nothing lost, order kept, times ascending", async (t) => {
  const lines = parseLog(await logOf(t, "seq 1 100000 & seq 1 50000 >&2; wait"));
  for (const [stream, count] of [
    ["stdout", 100_000],
    ["stderr", 50_000],
  ] as const) {
    const mine = lines.filter((line) => line.stream === stream);
    assert.equal(mine.length, count);
    mine.forEach((line, i) => assert.ok(line.tag === "F" && line.content.toString() === String(i + 1)));
  }
  for (let i = 1; i < lines.length; i++) assert.ok((lines[i - 1]?.time ?? "") <= (lines[i]?.time ?? ""));
});

test("long lines are split at maxLine; lines of exactly that length are not", async (t) => {
  const one = parseLog(await logOf(t, "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo after"));
  assert.deepEqual(
    one.map((line) => [line.tag, line.content.length]),
    [...Array.from({ length: 61 }, () => ["P", 16384]), ["F", 1_000_000 - 61 * 16384], ["F", 5]],
  );
  const lengths = parseLog(
    await logOf(t, "for n in 9 10 11 20 21 30; do head -c $n /dev/zero | tr '\\0' y; echo; done", { maxLine: 10 }),
  );
  assert.deepEqual(
    lengths.map((line) => line.tag + line.content.length),
    ["F9", "F10", "P10", "F1", "P10", "F10", "P10", "P10", "F1", "P10", "P10", "F10"],
  );
});

test("a line that comes in pieces is one entry", async (t) => {
  const lines = parseLog(
    await logOf(t, "printf a; sleep 0.03; printf b; sleep 0.03; echo c; printf tail; sleep 0.03; printf end"),
  );
  assert.deepEqual(
    lines.map((line) => line.tag + line.content),
    ["Fabc", "Ptailend"],
  );
});

test("binary output survives", async (t) => {
  const s = await serve(t);
  const data = Buffer.alloc(300_000);
  for (let i = 0, seed = 7; i < data.length; i++) data[i] = (seed = (seed * 1103515245 + 12345) & 0x7fffffff) >>> 16;
  data[data.length - 1] = 10;
  writeFileSync(join(s.directory, "data"), data);
  const c = await s.container(sh(`cat ${join(s.directory, "data")}`));
  await runToEnd(c);
  assert.ok(rejoin(parseLog(c.logged()), "stdout").equals(data));
});

test("what another process still writes after the exit, for a moment, is there", async (t) => {
  // From the moment that the monitor has reaped the first.
  const lines = parseLog(await logOf(t, "(while [ -d /proc/$$ ]; do :; done; echo late) & echo early"));
  assert.deepEqual(
    lines.map((line) => String(line.content)),
    ["early", "late"],
  );
});

test("a process that keeps the output open does not hold up the exit for long", async (t) => {
  const s = await serve(t);
  const c = await s.container(sh("head -c 60000 /dev/zero | tr '\\0' z; setsid sleep 30 & exit 5"));
  const start = Date.now();
  assert.equal((await runToEnd(c))["code"], 5);
  assert.ok(Date.now() - start < 25_000);
  assert.equal(rejoin(parseLog(c.logged()), "stdout").length, 60_000);
});

test("rotation during output: every line once, whole, in one of the files", async (t) => {
  const s = await serve(t);
  const c = await s.container(sh("seq 1 60000; read x"), { stdin: 1 });
  await c.link.ask("start", "state");
  const files: string[] = [];
  for (let i = 0; i < 20; i++) {
    files.push(`${c.log}.${i}`);
    renameSync(c.log, `${c.log}.${i}`);
    await c.link.ask("reopen_log", "report");
  }
  const input = await c.another();
  await input.ask("attach", "report", { session: 0, stream: 1 });
  await c.link.ask("watch", "state");
  input.socket.end("\n");
  await c.link.event();
  await c.gone();
  const lines = [...files, c.log].flatMap((file) => parseLog(readFileSync(file)));
  assert.equal(lines.length, 60_000);
  lines.forEach((line, i) => assert.equal(String(line.content), String(i + 1)));
});

test("reopening where it cannot be is an answer, and the old file goes on", async (t) => {
  const s = await serve(t);
  mkdirSync(join(s.directory, "logs"));
  const c = await s.container(sh("read x; echo after; read x"), {
    logPath: join(s.directory, "logs", "log"),
    stdin: 1,
    stdinOnce: 1,
  });
  await c.link.ask("start", "state");
  renameSync(join(s.directory, "logs"), join(s.directory, "moved"));
  const reply = await c.link.call("reopen_log");
  assert.equal(reply.fields["errno"], 2);
  assert.match(String(reply.fields["detail"]), /open .*logs\/log/);
  const input = await c.another();
  await input.ask("attach", "report", { session: 0, stream: 1 });
  input.socket.write("x\n");
  await until("it is logged", () => statSync(join(s.directory, "moved", "log")).size > 0);
  await c.link.ask("watch", "state");
  input.socket.end();
  await c.link.event();
  await c.gone();
});

/** A log on a file system of 64 KiB with this much ballast. */
async function onSmallDisk(
  t: TestContext,
  script: string,
  ballast: number,
  body: (c: Container, ballastPath: string, logPath: string) => Promise<void>,
): Promise<void> {
  const s = await serve(t);
  const disk = join(s.directory, "disk");
  mkdirSync(disk);
  const link = await s.link();
  await link.ask("run", "report", {
    plan: plan(["mount", { source: "tmpfs", target: disk, fstype: "tmpfs", flags: 0n, data: "size=256k" }]),
  });
  try {
    writeFileSync(join(disk, "ballast"), Buffer.alloc(ballast));
    const c = await s.container(sh(script), { logPath: join(disk, "log") });
    await body(c, join(disk, "ballast"), join(disk, "log"));
    await c.gone();
  } finally {
    await link.ask("run", "report", { plan: plan(["unmount", { path: disk, flags: 2n }]) });
    await link.end();
  }
}

test("a full disk: the container waits, the file holds whole entries, and with space again nothing is lost", async (t) => {
  await onSmallDisk(t, "seq 1 4000; exit 3", 200 << 10, async (c, ballast, log) => {
    await c.link.ask("watch", "state");
    await c.link.ask("start", "state");
    await until("the disk is full", () => statSync(log).size > 40 << 10);
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal((await c.link.ask("query", "state"))["phase"], 2);
    parseLog(readFileSync(log)); // throws if the last entry is cut
    truncateSync(ballast, 0);
    const { fields } = await c.link.event();
    assert.deepEqual([fields["code"], fields["lost"]], [3, 0n]);
    assert.deepEqual(
      parseLog(readFileSync(log)).map((line) => Number(line.content)),
      Array.from({ length: 4000 }, (_, i) => i + 1),
    );
  });
});

test("a full disk and rotation: what waited goes to the new file, whole", async (t) => {
  await onSmallDisk(t, "seq 1 4000", 200 << 10, async (c, ballast, log) => {
    await c.link.ask("watch", "state");
    await c.link.ask("start", "state");
    await until("the disk is full", () => statSync(log).size > 40 << 10);
    renameSync(log, `${log}.1`);
    rmSync(ballast);
    await c.link.ask("reopen_log", "report");
    await c.link.event();
    const lines = [...parseLog(readFileSync(`${log}.1`)), ...parseLog(readFileSync(log))];
    assert.deepEqual(
      lines.map((line) => Number(line.content)),
      Array.from({ length: 4000 }, (_, i) => i + 1),
    );
  });
});

test("a disk that stays full to the end: the exit is told all the same, and how much is lost", async (t) => {
  await onSmallDisk(t, "seq 1 2000; exit 4", 252 << 10, async (c, _ballast, log) => {
    await c.link.ask("watch", "state");
    await c.link.ask("start", "state");
    const { fields } = await c.link.event();
    assert.equal(fields["code"], 4);
    const kept = parseLog(readFileSync(log));
    kept.forEach((line, i) => assert.equal(Number(line.content), i + 1));
    // An entry is its content and 41 bytes more.
    const written = Array.from({ length: 2000 }, (_, i) => String(i + 1).length + 41).reduce((a, b) => a + b);
    assert.equal(Number(fields["lost"]), written - statSync(log).size);
  });
});

test("a log that a plan bounds begins anew, and what was before is kept once", async (t) => {
  const bound = 8192;
  const s = await serve(t);
  const script = "i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); echo line $i; done";
  const bounded = plan(
    ["bound_log", { bytes: BigInt(bound) }],
    CLONE,
    ["setsid"],
    ["park"],
    exec("/bin/sh", "-c", script),
  );
  const log = join(s.directory, "log");
  await runToEnd(await s.container(bounded, { logPath: log }));
  const [before, now] = [`${log}.1`, log].map((path) => readFileSync(path));
  // One turn of reading may go beyond it.
  for (const file of [before, now]) assert.ok(file && file.length < bound + 3 * 65_536, `${file?.length} bytes`);
  assert.ok(before && before.length >= bound);
  const numbers = parseLog(Buffer.concat([before, now ?? Buffer.alloc(0)])).map(({ content }) =>
    Number(/^line (\d+)$/.exec(String(content))?.[1]),
  );
  assert.equal(numbers.at(-1), 2000);
  numbers.forEach((number, index) => assert.equal(number, (numbers[0] ?? 0) + index));
  assert.deepEqual(
    readdirSync(s.directory)
      .filter((name) => name.startsWith("log"))
      .sort(),
    ["log", "log.1"],
  );
});
