/** Container logs through the CRI: nothing lost, order kept, the format exact. Needs root. */
import assert from "node:assert/strict";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { TestDaemon } from "./support/daemon.ts";
import { exited, runPod, sh, startContainer, status } from "./support/pods.ts";

interface Line {
  readonly stream: string;
  readonly tag: string;
  readonly content: Buffer;
}

/** Each line of a CRI log; anything that is not one is an error. */
function parseLog(bytes: Buffer): Line[] {
  const lines: Line[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(10, at);
    assert.notEqual(end, -1, "the log ends with a newline");
    const line = bytes.subarray(at, end);
    const head = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([PF]) /.exec(
      line.subarray(0, 64).toString("latin1"),
    );
    assert.ok(head, `not a line of a CRI log: ${line.subarray(0, 80).toString("latin1")}`);
    lines.push({ stream: head[2] ?? "", tag: head[3] ?? "", content: line.subarray(head[0].length) });
    at = end + 1;
  }
  return lines;
}

const contentOf = (lines: readonly Line[], stream: string): Buffer =>
  Buffer.concat(
    lines
      .filter((line) => line.stream === stream)
      .flatMap((line) => (line.tag === "F" ? [line.content, Buffer.of(10)] : [line.content])),
  );

describe("logs", () => {
  let daemon: TestDaemon;
  let pod: Awaited<ReturnType<typeof runPod>>;
  before(async () => {
    daemon = await TestDaemon.start();
    pod = await runPod(daemon);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });
  const logOf = async (script: string): Promise<Line[]> =>
    parseLog(readFileSync((await exited(daemon, await startContainer(daemon, pod, script))).logPath));

  test("100,000 lines on both streams", async () => {
    const lines = await logOf("seq 1 100000 & seq 1 100000 >&2; wait");
    const expected = Array.from({ length: 100_000 }, (_, i) => `${i + 1}\n`).join("");
    for (const stream of ["stdout", "stderr"]) assert.equal(contentOf(lines, stream).toString(), expected, stream);
  });

  test("a line of a megabyte is split and can be put together again", async () => {
    const lines = await logOf("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end");
    assert.equal(contentOf(lines, "stdout").toString(), `${"x".repeat(1_000_000)}\nend\n`);
    assert.ok(lines.every((line) => line.content.length <= 16_384));
  });

  test("binary output, and a last line without its end", async () => {
    const lines = await logOf('for i in $(seq 0 255); do printf "\\\\$(printf %03o $i)"; done; printf tail');
    const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    assert.deepEqual(contentOf(lines, "stdout"), Buffer.concat([all, Buffer.from("tail")]));
  });

  test("a rotated log goes on in a new file, and no line is in both or in none", async () => {
    const id = await startContainer(daemon, pod, "i=0; while [ ! -e /stop ]; do echo $i; i=$((i+1)); done");
    const { logPath } = await status(daemon, id);
    const rotated: string[] = [];
    for (let i = 0; i < 3; i++) {
      await sh(daemon, id, "sleep 0.1");
      renameSync(logPath, `${logPath}.${i}`);
      rotated.push(`${logPath}.${i}`);
      await daemon.client.runtime.reopenContainerLog({ containerId: id });
    }
    // From outside: a process inside would be killed by the end that it brings about.
    const pid = /^pid (\d+)$/m.exec(readFileSync(`${daemon.state}/containers/${id}/record`, "utf8"))?.[1];
    writeFileSync(`/proc/${pid}/root/stop`, "");
    await exited(daemon, id);
    const numbers = [...rotated, logPath].flatMap((path) =>
      parseLog(readFileSync(path)).map((line) => Number(line.content.toString())),
    );
    assert.ok(numbers.length > 100);
    assert.deepEqual(
      numbers,
      numbers.map((_, i) => i),
    );
    await assert.rejects(daemon.client.runtime.reopenContainerLog({ containerId: id }), /not running/);
  });
});
