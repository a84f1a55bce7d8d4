import assert from "node:assert/strict";
import { test } from "node:test";
import { parseDuration } from "@berth/spec/oci";

test("durations are those of Go's time.ParseDuration", () => {
  const known: readonly (readonly [string, number])[] = [
    ["0", 0],
    ["5s", 5000],
    ["4h0m0s", 14_400_000],
    ["1h15m30.918s", 4_530_918],
    [".5s", 500],
    ["1.s", 1000],
    ["-300ms", -300],
    ["+1m", 60_000],
    ["-0", 0],
    ["12µs", 0.012],
    ["12μs", 0.012],
    ["3us2ns", 0.003002],
  ];
  for (const [text, ms] of known) assert.ok(Math.abs((parseDuration(text) ?? Infinity) - ms) < 1e-9, text);
  for (const text of ["", "3", "-", "s", ".", "-.", ".s", "+.s", "1d", "3000000h2x", "1h 2m", "0x1s", "1e3s", "1.2.3s"])
    assert.equal(parseDuration(text), undefined, text);
  assert.equal(parseDuration("1d12h", { d: 86_400_000 }), 129_600_000);
});
