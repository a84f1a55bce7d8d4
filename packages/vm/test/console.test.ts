/** What a guest's console says last, as errors quote it. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { consoleWords } from "../src/sandbox/console.ts";
import { lastWords } from "../src/sandbox/programs.ts";

test("a panic's line, or the last ones; never more, and never a control character", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "berth-console-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const words = async (text: string): Promise<string> => {
    writeFileSync(join(dir, "console.log"), text, "latin1");
    return await consoleWords(dir);
  };
  assert.equal(await consoleWords(join(dir, "none")), "");
  assert.equal(await words("\r\n\n"), "");
  assert.equal(await words("one\r\ntwo\nthree\nfour"), ": its console ended with: two / three / four");
  const panic = "[    2.1] Run /init\n[    2.123456] Kernel panic - not syncing: No working init\n[    2.2] CPU: 0\n";
  assert.equal(await words(panic), ": the guest's kernel panicked: Kernel panic - not syncing: No working init");
  assert.equal(await words("a\x1b[31mb\x00\x9bc\u00ff"), ": its console ended with: a[31mbc");
  rmSync(join(dir, "console.log"));
  const entry = (stream: string, line: string): string => `2026-01-01T00:00:00.000000000Z ${stream} F ${line}\n`;
  writeFileSync(join(dir, "hypervisor.log.1"), entry("stdout", "one") + entry("stderr", "qemu: two"));
  writeFileSync(join(dir, "hypervisor.log"), entry("stdout", "three\r") + entry("stderr", "qemu: four"));
  assert.equal(await consoleWords(dir), ": its console ended with: one / three");
  assert.match(await lastWords(dir, "hypervisor"), /^: qemu: four: its console ended with: one \/ three$/);
  const long = await words(`${"x".repeat(1 << 20)}\n${"y".repeat(1 << 20)}`);
  assert.ok(long.length < 1000, String(long.length));
});
