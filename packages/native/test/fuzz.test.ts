/** A short run of the decoders' fuzzer, from seeds that use every order, message, tree entry and frame of the channel, and an answer by ttRPC. BERTH_FUZZ_SECONDS for a longer one. */
import assert from "node:assert/strict";
import { execFile, execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { MESSAGES, ORDERS, PLAN_VERSION, TREE } from "@berth/kernel";
import { build, built, scratch } from "./bosun.ts";
import { FRAME, frame, nonce, u32 } from "./channel.ts";
import { encodeFields, frame as message, type Value, type Values } from "./client.ts";

const SAMPLE: Readonly<Record<string, Value>> = {
  u32: 7,
  u64: 1n << 40n,
  i64: -1n,
  str: "/some/path",
  bytes: Buffer.from("data\0more"),
  strs: ["a=b", "", "c"],
  blobs: [Buffer.alloc(0), Buffer.from([0, 1])],
  u32s: [1, 2, 70000],
};
type Specs = Readonly<
  Record<
    string,
    { readonly type?: number; readonly code?: number; readonly fields: Parameters<typeof encodeFields>[0] }
  >
>;

/** Every entry of a table, with something in every field. */
function encoded(specs: Specs): { name: string; number: number; body: Buffer }[] {
  return Object.entries(specs).map(([name, spec]) => {
    const values: Values = Object.fromEntries(
      Object.entries(spec.fields).map(([field, type]) => [field, SAMPLE[type] ?? 0]),
    );
    return { name, number: spec.code ?? spec.type ?? 0, body: encodeFields(spec.fields, values) };
  });
}

function plan(orders: readonly { number: number; body: Buffer }[]): Buffer {
  const head = (...words: number[]) => Buffer.from(Uint32Array.from(words).buffer);
  return Buffer.concat([
    head(PLAN_VERSION, orders.length),
    ...orders.flatMap(({ number, body }) => [head(number, body.length), body]),
  ]);
}

/** The first byte of an input says what it is, the second which message or tree entry. */
function seeds(dir: string): void {
  const write = (name: string, kind: number, type: number, body: Uint8Array) =>
    writeFileSync(join(dir, name), Buffer.concat([Buffer.from([kind, type]), body]));
  const orders = encoded(ORDERS);
  write("plan", 0, 0, plan(orders));
  for (const one of orders) write(`order-${one.name}`, 0, 0, plan([one]));
  for (const { name, number, body } of encoded(MESSAGES)) write(`message-${name}`, 1, number, body);
  for (const { name, number, body } of encoded(TREE)) write(`tree-${name}`, 2, number, body);
  const streams = [1, 2, 3].flatMap((stream) => [
    frame(FRAME.opened, stream, u32(stream === 3 ? 2 : 0)),
    frame(FRAME.data, stream, "some data"),
    frame(FRAME.give, stream, u32(5)),
    frame(stream === 1 ? FRAME.shut : FRAME.close, stream, stream === 1 ? "" : u32(0)),
  ]);
  write("guest-says", 3, 0xff, Buffer.concat(streams));
  write(
    "guest-answers",
    3,
    0xfe,
    Buffer.concat([Buffer.from("stale"), frame(FRAME.resetAck, 0, nonce(7)), ...streams]),
  );
  const host = ["/a", "connects", "error"].flatMap((path, index) => [
    frame(FRAME.open, index + 1, path),
    frame(FRAME.data, index + 1, "more"),
    frame(FRAME.give, index + 1, u32(1)),
    frame(FRAME.shut, index + 1),
    frame(FRAME.close, index + 1, u32(0)),
  ]);
  // Response{status: {code: 5, message: "gone"}, payload: {data: "output"}}, on stream 1, and half of another.
  const answer = Buffer.from("0a0808051204676f6e6512080a066f7574707574", "hex");
  const whole = Buffer.concat([Buffer.from([0, 0, 0, answer.length, 0, 0, 0, 1, 2, 0]), answer]);
  write("answers", 5, 0xff, Buffer.concat([whole, whole.subarray(0, 15)]));
  write("host-says", 4, 0x07, Buffer.concat([Buffer.alloc(99), frame(FRAME.reset, 0, nonce(1)), ...host]));
}

/** What each connection of a stand-in's hears, behind how it is read and what it is (fuzz_world.h). */
const heard = (step: number, options: number, ...connections: readonly Uint8Array[]): Buffer =>
  Buffer.concat([
    Buffer.from([step, options]),
    ...connections.flatMap((bytes) => [Buffer.from(Uint16Array.of(bytes.length).buffer), bytes]),
  ]);

const OPTION = { terminal: 1, input: 2, busy: 4, signals: 8, other: 16, oom: 32, endless: 64 };
const GRANTED = Buffer.from("OK 1024\nOK\n");
const DONE = { errno: 0, order: 0, stage: 0, detail: "", outputs: Buffer.alloc(0) };
const STATE = {
  phase: 2,
  pid: 1,
  pidStart: 1n,
  createdAt: 0n,
  startedAt: 0n,
  finishedAt: 0n,
  code: 0,
  signal: 0,
  oom: 0,
  lost: 0n,
};
const SESSION = { session: 3, pid: 9 };
const EXECED = { code: 3, signal: 0, timedOut: 0, truncated: 0, stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) };

/** A guest's monitor that does what it should, and then more. */
function guestSeeds(dir: string): void {
  const { terminal, input, busy, signals, other, oom, endless } = OPTION;
  const attached = Buffer.concat([GRANTED, message("report", 1, DONE), Buffer.from("output")]);
  const begun = Buffer.concat([GRANTED, message("state", 1, STATE), message("state", 2, STATE)]);
  const ended = Buffer.concat([begun, message("state", 0, { ...STATE, phase: 3, code: 7, oom: 1 })]);
  const streams = [attached, attached, attached];
  const write = (name: string, step: number, options: number, ...connections: readonly Uint8Array[]) =>
    writeFileSync(join(dir, name), heard(step, options, ...connections));
  write("process", 255, input | oom | signals, ended, ...streams);
  write("process-garbage", 255, oom, Buffer.concat([ended, Buffer.alloc(3000, "x")]), ...streams);
  const failure = message("report", 1, { ...DONE, errno: 2, detail: "no such file" });
  write("process-fails", 9, busy, Buffer.concat([GRANTED, failure]), ...streams);
  // Frame by frame that cannot be one, and for ever.
  const cut = Buffer.concat([begun, Buffer.alloc(60_000 - begun.length, 0xff)]);
  write("process-endless", 255, endless, cut, ...streams);
  // A frame that says how long it is, and comes.
  const large = Buffer.from(message("state", 0, STATE));
  large.writeUInt32LE(0x03ff_ffff, 0);
  write("process-large", 255, endless, Buffer.concat([begun, large, Buffer.alloc(60_000)]), ...streams);
  const session = message("session", 1, SESSION);
  const waited = (id: number): Uint8Array => message("execed", id, EXECED);
  write("exec", 255, other | input, Buffer.concat([GRANTED, session, waited(2)]), ...streams);
  write(
    "exec-terminal",
    1,
    other | terminal | signals,
    Buffer.concat([GRANTED, session, waited(3)]),
    attached,
    attached,
  );
  write("busy", 255, busy, Buffer.from("OK 1024\nERR EAGAIN\n"), Buffer.from("ERR"));
}

/** Kata's agent, likewise. */
function agentSeeds(dir: string): void {
  const answer = (stream: number, body: string): Buffer => {
    const bytes = Buffer.from(body, "hex");
    const header = Buffer.from([0, 0, 0, bytes.length, 0, 0, 0, stream, 2, 0]);
    return Buffer.concat([header, bytes]);
  };
  const [started, output, gone, waited] = ["1200", "12080a066f7574707574", "0a0808051204676f6e65", "12020807"];
  const talk = [
    answer(1, started),
    answer(5, output),
    answer(7, gone),
    answer(9, gone),
    answer(11, waited),
    answer(0, output),
  ];
  const { terminal, input, busy, signals, other } = OPTION;
  const all = Buffer.concat([Buffer.from("OK 1024\nOK\n"), ...talk]);
  for (const options of [input, terminal | input, busy | signals | input, other | signals, other | busy])
    for (const step of [0, 255]) writeFileSync(join(dir, `agent-${options}-${step}`), heard(step, options, all));
  writeFileSync(join(dir, "refused"), heard(255, 0, Buffer.concat([Buffer.from("OK 1024\n"), answer(1, gone)])));
}

interface Target {
  readonly name: string;
  readonly what: string;
  readonly seeds: (dir: string) => void;
  /** Bytes of an input. */
  readonly longest: number;
  /** Of the time. */
  readonly share: number;
}

const TARGETS: readonly Target[] = [
  { name: "fuzz_decode", what: "the decoders stand whatever bytes they are given", seeds, longest: 4096, share: 1 },
  {
    name: "fuzz_guest",
    what: "a process that stands for one in a machine ends, or goes on, whatever its guest says",
    seeds: guestSeeds,
    longest: 65_536,
    share: 1 / 3,
  },
  {
    name: "fuzz_agent",
    what: "a process that stands for one of Kata's agent's likewise",
    seeds: agentSeeds,
    longest: 4096,
    share: 1 / 3,
  },
];

for (const { name, what, seeds: plant, longest, share } of TARGETS)
  test(what, { timeout: 3_600_000 }, async (t) => {
    if (spawnSync("clang", ["--version"]).error !== undefined) return t.skip("clang is not installed");
    execFileSync(build, ["--fuzz", name]);
    const corpus = scratch(t);
    const crashes = join(scratch(t), "crashes/");
    mkdirSync(crashes);
    plant(corpus);
    const before = readdirSync(corpus).length;
    const seconds = Math.max(2, Math.round(Number(process.env["BERTH_FUZZ_SECONDS"] ?? 3) * share));
    const result = await promisify(execFile)(
      join(built, name),
      [
        `-max_total_time=${seconds}`,
        `-max_len=${longest}`,
        `-artifact_prefix=${crashes}`,
        "-print_final_stats=1",
        corpus,
      ],
      { maxBuffer: 1 << 26 },
    );
    assert.deepEqual(readdirSync(crashes), []);
    const executed = Number(/stat::number_of_executed_units:\s*(\d+)/.exec(result.stderr)?.[1] ?? 0);
    t.diagnostic(`${executed} inputs, ${readdirSync(corpus).length - before} of them new in what they reach`);
    assert.ok(executed > before, result.stderr);
  });
