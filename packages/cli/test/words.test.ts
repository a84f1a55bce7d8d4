import assert from "node:assert/strict";
import { test } from "node:test";
import { Failure } from "../src/failure.ts";
import { Sink } from "./double/index.ts";
import { layerLine, pullDisplay } from "../src/pull/progress.ts";
import { formatTable, printable, truncate, widthOf } from "../src/table.ts";
import {
  ago,
  humanDuration,
  humanMemory,
  humanSize,
  parseBytes,
  parseSpan,
  parseMoment,
  rfc3339,
} from "../src/units.ts";

test("sizes", () => {
  assert.deepEqual([0, 999, 1000, 4_321_000, 999_600, 1.5e9].map(humanSize), [
    "0B",
    "999B",
    "1kB",
    "4.32MB",
    "1MB",
    "1.5GB",
  ]);
  assert.deepEqual([0, 1023, 1024, 1.5 * 2 ** 30].map(humanMemory), ["0B", "1023B", "1KiB", "1.5GiB"]);
  assert.deepEqual(
    ["1", "1b", "1k", "1.5k", "64KiB", "2gb", "1T"].map((text) => parseBytes(text, "-m")),
    [1n, 1n, 1024n, 1536n, 65536n, 2n << 30n, 1n << 40n],
  );
  for (const text of ["", "x", "-1", "1z", "1 2"]) assert.throws(() => parseBytes(text, "-m"), Failure, text);
});

test("times", () => {
  const [second, minute, hour, day] = [1000, 60_000, 3_600_000, 86_400_000];
  assert.deepEqual(
    [500, second, 45 * second, 90 * second, 3 * minute, hour, 5 * hour, 3 * day, 20 * day, 90 * day, 900 * day].map(
      humanDuration,
    ),
    [
      "Less than a second",
      "1 second",
      "45 seconds",
      "About a minute",
      "3 minutes",
      "About an hour",
      "5 hours",
      "3 days",
      "2 weeks",
      "3 months",
      "2 years",
    ],
  );
  assert.equal(humanDuration(-5), "Less than a second");
  assert.equal(ago(0n, Date.now()), "");
  assert.equal(rfc3339(0n), undefined);
  assert.equal(rfc3339(1_700_000_000_123_456_789n), "2023-11-14T22:13:20.123456789Z");
  assert.deepEqual(["90s", "1h30m", "1.5h", "250ms", "", "5", "1x", "m5"].map(parseSpan), [
    90_000,
    5_400_000,
    5_400_000,
    250,
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
  assert.equal(parseMoment("10m", "--since", 1_000_000_000), 1_000_000_000 - 600_000);
  assert.equal(parseMoment("1700000000", "--since", 0), 1_700_000_000_000);
  assert.equal(parseMoment("2023-11-14T22:13:20Z", "--since", 0), 1_700_000_000_000);
  assert.throws(() => parseMoment("yesterday", "--since", 0), /--since: "yesterday" is not a time/);
});

test("tables are as wide as their content, also where characters are two columns wide", () => {
  const columns = [
    { title: "A", value: (row: string[]) => row[0] ?? "" },
    { title: "LONG", value: (row: string[]) => row[1] ?? "" },
  ];
  assert.equal(formatTable(columns, []), "A   LONG\n");
  assert.equal(
    formatTable(columns, [
      ["xxxx", ""],
      ["港口", "y"],
    ]),
    "A      LONG\nxxxx\n港口   y\n",
  );
  assert.equal(widthOf("港e\u0301"), 3);
  assert.equal(printable("a\u001b[2Jb\tc\r"), "a\ufffd[2Jb c\ufffd");
  assert.equal(truncate("abcdef", 4), "abc…");
});

const digest = (letter: string): string => `sha256:${letter.repeat(64)}`;

test("a layer's line keeps within the terminal", () => {
  const half = { id: digest("a"), status: "downloading", doneBytes: 5_000_000n, totalBytes: 10_000_000n };
  assert.equal(
    layerLine(half, 12, 80),
    "aaaaaaaaaaaa  downloading   [==================>                  ]  5MB / 10MB",
  );
  for (let columns = 20; columns < 120; columns++) {
    for (const doneBytes of [0n, 5_000_000n, 10_000_000n, 20_000_000n])
      assert.ok(layerLine({ ...half, doneBytes }, 12, columns).length < columns, `${columns}`);
  }
  assert.equal(layerLine({ ...half, status: "exists" }, 12, 80), "aaaaaaaaaaaa  already here  10MB");
  assert.equal(
    layerLine({ id: "manifest", status: "waiting", doneBytes: 0n, totalBytes: 0n }, 12, 80),
    "manifest      waiting",
  );
});

test("on a terminal the bars are drawn over each other, and what is finished is counted where they do not fit", () => {
  const output = new Sink();
  output.isTTY = true;
  let clock = 0;
  const display = pullDisplay(output, () => (clock += 1000));
  display.update({ id: digest("a"), status: "downloading", doneBytes: 1n, totalBytes: 10n });
  display.update({ id: digest("b"), status: "waiting", doneBytes: 0n, totalBytes: 10n });
  display.finish();
  const frames = output.text.split("\u001b[J").slice(0, -1);
  assert.equal(frames.length, 3);
  assert.ok(frames[1]?.startsWith("\u001b[1A\r\u001b[2Kaaaaaaaaaaaa"), JSON.stringify(frames[1]));
  assert.ok(frames[2]?.startsWith("\u001b[2A"), JSON.stringify(frames[2]));

  const small = new Sink();
  small.isTTY = true;
  small.rows = 5;
  const many = pullDisplay(small, () => (clock += 1000));
  for (let i = 0; i < 20; i++)
    many.update({
      id: digest(i.toString(16).slice(-1)) + i,
      status: i < 12 ? "done" : "downloading",
      doneBytes: 1n,
      totalBytes: 10n,
    });
  many.finish();
  const last = small.text.split("\u001b[J").at(-2) ?? "";
  assert.equal(last.split("\n").length - 1, 4);
  assert.match(last, /12 of 20 done, 5 more to come/);
});

test("drawing is held back to a dozen times a second, and finish draws what is left", () => {
  const output = new Sink();
  output.isTTY = true;
  const display = pullDisplay(output, () => 0);
  for (let done = 1n; done <= 1000n; done++)
    display.update({ id: digest("a"), status: "downloading", doneBytes: done, totalBytes: 1000n });
  display.finish();
  assert.equal(output.text.split("\u001b[J").length - 1, 2);
  assert.match(output.text, /1kB \/ 1kB/);
});

test("elsewhere each layer has one line, when it is done", () => {
  const output = new Sink();
  const display = pullDisplay(output);
  display.update({ id: digest("a"), status: "downloading", doneBytes: 1n, totalBytes: 2000n });
  display.update({ id: digest("a"), status: "done", doneBytes: 2000n, totalBytes: 2000n });
  display.update({ id: digest("a"), status: "done", doneBytes: 2000n, totalBytes: 2000n });
  display.update({ id: digest("b"), status: "exists", doneBytes: 0n, totalBytes: 0n });
  display.finish();
  assert.equal(output.text, "aaaaaaaaaaaa: done (2kB)\nbbbbbbbbbbbb: already here\n");
});
