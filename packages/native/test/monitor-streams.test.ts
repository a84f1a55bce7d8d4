/** The streams of a container: attached, slow, left; terminals. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { statSync } from "node:fs";
import { constants } from "node:os";
import { test } from "node:test";
import { STREAM } from "@berth/kernel";
import { attach, CLONE, collect, exec, frame, plan, runToEnd, serve, sh, started, until } from "./client.ts";
import { parseLog, rejoin } from "./cri-log.ts";

const { ESRCH, EPIPE, ENOTTY, EINVAL } = constants.errno;

test("stdin, stdout and stderr attached by several clients; one that vanishes is dropped", async (t) => {
  const c = await (await serve(t)).container(sh("cat; echo bye >&2"), { stdin: 1, stdinOnce: 1 });
  const outs = await Promise.all([
    attach(c, 0, STREAM.stdout),
    attach(c, 0, STREAM.stdout),
    attach(c, 0, STREAM.stdout),
  ]);
  const err = await attach(c, 0, STREAM.stderr);
  const input = await attach(c, 0, STREAM.stdin);
  const collected = [outs[0], outs[1]].map((link) => collect(link));
  const errors = collect(err);
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  await outs[2].end();
  const data = Buffer.alloc(5_000_000, "0123456789abcdef\n");
  input.socket.end(data);
  for (const got of await Promise.all(collected)) assert.ok(got.equals(data));
  assert.equal(String(await errors), "bye\n");
  assert.equal((await c.link.event()).fields["code"], 0);
  await c.gone();
  assert.ok(rejoin(parseLog(c.logged()), "stdout").equals(data));
});

test("stdin of many clients in turn stays open without stdinOnce, and bytes right behind the request count", async (t) => {
  const c = await started(t, "while read x; do echo got $x; [ $x = end ] && exit 5; done", { stdin: 1 });
  const out = await attach(c, 0, STREAM.stdout);
  const all = collect(out);
  for (const word of ["one", "two", "end"]) {
    const link = await c.another();
    link.socket.end(
      Buffer.concat([frame("attach", 1, { session: 0, stream: STREAM.stdin }), Buffer.from(`${word}\n`)]),
    );
    await once(link.socket, "end");
  }
  assert.equal(String(await all), "got one\ngot two\ngot end\n");
  await c.gone();
  assert.equal(c.record()["code"], "5");
});

test("a slow client applies back-pressure and loses nothing; the log goes the same pace", async (t) => {
  const c = await (await serve(t)).container(sh("head -c 6000000 /dev/zero | tr '\\0' x | fold -w 99"));
  const slow = await attach(c, 0, STREAM.stdout);
  slow.socket.pause();
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.ok(statSync(c.log).size < 3_000_000, "the container waits for the client");
  const got = await collect(slow);
  await c.link.event();
  await c.gone();
  assert.ok(rejoin(parseLog(c.logged()), "stdout").equals(got));
  assert.equal(got.filter((byte) => byte === 0x78).length, 6_000_000);
});

test("a client that reads nothing holds up neither the exit nor its record", async (t) => {
  const c = await (await serve(t)).container(sh("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2"));
  const stuck = [await attach(c, 0, STREAM.stdout), await attach(c, 0, STREAM.stderr)];
  for (const link of stuck) link.socket.pause();
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  assert.equal((await c.link.event()).fields["code"], 0);
  for (const link of stuck) await link.end();
  await c.gone();
});

test("no stdin: end of file at once; attach is refused", async (t) => {
  const c = await (await serve(t)).container(sh("cat; read x"));
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  await c.link.event();
  const d = await started(t, "exec sleep 1000");
  await d.link.refused(EPIPE, "attach", { session: 0, stream: STREAM.stdin });
  await d.link.refused(EINVAL, "attach", { session: 0, stream: 8 });
  await d.link.refused(ESRCH, "attach", { session: 5, stream: STREAM.stdout });
  await d.link.refused(ENOTTY, "resize", { session: 0, rows: 1, columns: 1 });
});

const consolePlan = (script: string, park: boolean): Buffer =>
  plan(
    ["open", { slot: 1, path: "/", flags: 0o10000000n }],
    CLONE,
    ["setsid"],
    ["console", { root: 1, rows: 24, columns: 80 }],
    ...(park ? [["park"] as const] : []),
    exec("/bin/sh", "-c", script),
  );

test("a terminal: size, resize, echo, logged as stdout, one stream", async (t) => {
  const s = await serve(t);
  const c = await s.container(consolePlan("stty size; tty; read x; stty size; read y; echo done; exit 3", true), {
    terminal: 1,
    rows: 24,
    columns: 80,
    stdin: 1,
  });
  const out = await attach(c, 0, STREAM.stdout),
    input = await attach(c, 0, STREAM.stdin);
  const parts: Buffer[] = [out.raw()];
  out.socket.on("data", (chunk: Buffer) => parts.push(chunk));
  const seen = () => String(Buffer.concat(parts));
  await c.link.refused(EINVAL, "attach", { session: 0, stream: STREAM.stderr });
  await c.link.ask("watch", "state");
  await c.link.ask("start", "state");
  await until("the first size is seen", () => seen().includes("24 80\r\n/dev/"));
  await c.link.ask("resize", "report", { session: 0, rows: 50, columns: 132 });
  input.socket.write("go\n");
  await until("the second size is seen", () => seen().includes("50 132\r\n"));
  await input.end();
  const again = await attach(c, 0, STREAM.stdin);
  again.socket.write("on\n");
  assert.equal((await c.link.event()).fields["code"], 3);
  await c.gone();
  await until("the stream is at its end", () => out.socket.readableEnded);
  assert.match(seen(), /go\r\n.*on\r\ndone\r\n$/s);
  const lines = parseLog(c.logged());
  assert.ok(lines.every((line) => line.stream === "stdout"));
  assert.equal(String(rejoin(lines, "stdout")), seen());
});

test("a terminal in exec", async (t) => {
  const c = await started(t, "exec sleep 1000");
  const { session } = await c.link.ask("exec", "session", {
    terminal: 1,
    rows: 10,
    columns: 20,
    streams: STREAM.stdin | STREAM.stdout,
    plan: consolePlan("stty -echo; stty size; read x; echo $x", false),
  });
  const out = collect(await attach(c, Number(session), STREAM.stdout));
  const input = await attach(c, Number(session), STREAM.stdin);
  input.socket.write("word\n");
  assert.match(String(await out), /10 20\r\n(word\r\n)?word\r\n$/); // echoed or not, as the shell was faster
  assert.equal((await c.link.ask("wait", "execed", { session: Number(session) }))["code"], 0);
});

test("a process that lets go of its terminal for a while keeps it", async (t) => {
  const s = await serve(t);
  const c = await s.container(consolePlan("t=$(tty); exec 0<&- 1>&- 2>&-; sleep 0.1; exec >$t; echo back", true), {
    terminal: 1,
  });
  await runToEnd(c);
  assert.equal(String(rejoin(parseLog(c.logged()), "stdout")), "back\r\n");
});
