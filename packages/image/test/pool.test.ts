import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ImageError } from "../src/errors.ts";
import type { Jobs } from "../src/layers/jobs.ts";
import { WorkerPool } from "../src/layers/pool.ts";
import { Semaphore } from "../src/layers/semaphore.ts";
import { scratch } from "./support/store.ts";

/** FIPS 180-4's first example. */
const ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

test("jobs run, several at a time, and what they throw comes back", async (t) => {
  const pool = new WorkerPool(2);
  t.after(() => pool.close());
  const root = scratch(t);
  const path = join(root, "file");
  writeFileSync(path, "abc");
  const digests = await Promise.all(
    Array.from({ length: 6 }, async () => await pool.run("digest", { path, digest: ABC })),
  );
  assert.deepEqual(new Set(digests), new Set([ABC]));
  const missing = { mediaType: "x", digest: `sha256:${"0".repeat(64)}`, size: 1 };
  await assert.rejects(
    pool.run("copy", { path: join(root, "absent"), descriptor: missing, ingest: join(root, "out") }),
    (error) => error instanceof ImageError && error.message.includes("absent"),
  );
});

/** A module whose tree says in a file of its name that it is opened, and then does `what`. */
function moduleOf(root: string, name: string, what: string): void {
  const mark = JSON.stringify(join(root, `${name}.begun`));
  const text = `import { writeFileSync } from "node:fs";\nexport function openTree() { writeFileSync(${mark}, ""); ${what} }\n`;
  writeFileSync(join(root, `${name}.mjs`), text);
}

/** Aborts, as a time-out does, once the module's tree is being opened. */
function abortedIn(root: string, name: string): AbortSignal {
  const abort = new AbortController();
  const wait = async (): Promise<void> => {
    while (!existsSync(join(root, `${name}.begun`))) await delay(5);
    abort.abort(new DOMException("the time is up", "TimeoutError"));
  };
  void wait();
  return abort.signal;
}

/** A job whose module does what `name` in `root` says. */
const hangingLayer = (root: string, name: string): Jobs["layer"]["request"] => ({
  source: { kind: "file", path: "/dev/null" },
  descriptor: { mediaType: "x", digest: `sha256:${"0".repeat(64)}`, size: 0 },
  diffId: `sha256:${"0".repeat(64)}`,
  target: { kind: "tree", directory: root },
  tree: { module: `file://${root}/${name}.mjs`, socket: "" },
});

test("a job that blocks its worker is ended with it after an abort, and the pool goes on", async (t) => {
  const pool = new WorkerPool(1);
  t.after(() => pool.close());
  const root = scratch(t);
  const abc = join(root, "abc");
  writeFileSync(abc, "abc");
  moduleOf(root, "blocking", "for (;;);");
  await assert.rejects(
    pool.run("layer", hangingLayer(root, "blocking"), { signal: abortedIn(root, "blocking") }),
    (error) => error instanceof ImageError && error.code === "DeadlineExceeded",
  );
  assert.equal(await pool.run("digest", { path: abc, digest: ABC }), ABC);
  moduleOf(root, "dying", "process.exit(3);");
  await assert.rejects(
    pool.run("layer", hangingLayer(root, "dying")),
    (error) => error instanceof ImageError && error.code === "Internal",
  );
  assert.equal(await pool.run("digest", { path: abc, digest: ABC }), ABC);
});

test("jobs share workers: small ones beside large ones, and a hanging worker is ended for all of them", async (t) => {
  const pool = new WorkerPool(1);
  t.after(() => pool.close());
  const root = scratch(t);
  const path = join(root, "file");
  writeFileSync(path, "abc");
  const gate = Promise.withResolvers<void>();
  async function* slow(): AsyncGenerator<Uint8Array, void, undefined> {
    yield new Uint8Array(512);
    await gate.promise;
  }
  const archive = pool.run("archive", { directory: root }, { input: slow() });
  assert.equal(await pool.run("digest", { path, digest: ABC }), ABC, "while the archive waits for its sender");
  gate.resolve();
  assert.deepEqual(await archive, []);
  moduleOf(root, "waiting", "return new Promise(() => {});");
  moduleOf(root, "blocking", "for (;;);");
  const waits = pool.run("layer", hangingLayer(root, "waiting"));
  const stuck = pool.run("layer", hangingLayer(root, "blocking"), { signal: abortedIn(root, "blocking") });
  await Promise.all([
    assert.rejects(stuck, (error) => error instanceof ImageError && error.code === "DeadlineExceeded"),
    assert.rejects(waits, (error) => error instanceof ImageError && error.code === "Internal"),
  ]);
  assert.equal(await pool.run("digest", { path, digest: ABC }), ABC);
});

test("an aborted job that does not end is waited for, if others share its worker and that goes on", async (t) => {
  const pool = new WorkerPool(1);
  t.after(() => pool.close());
  const root = scratch(t);
  const path = join(root, "file");
  writeFileSync(path, "abc");
  moduleOf(root, "waiting", "return new Promise((resolve) => setTimeout(resolve, 5000));");
  const gate = Promise.withResolvers<void>();
  async function* slow(): AsyncGenerator<Uint8Array, void, undefined> {
    yield new Uint8Array(512);
    await gate.promise;
  }
  const archive = pool.run("archive", { directory: root }, { input: slow() });
  const stuck = pool.run("layer", hangingLayer(root, "waiting"), { signal: abortedIn(root, "waiting") });
  await assert.rejects(stuck, (error) => error instanceof ImageError && error.code === "DeadlineExceeded");
  gate.resolve();
  assert.deepEqual(await archive, []);
});

test("a closed pool takes nothing more", async () => {
  const pool = new WorkerPool(1);
  pool.warm(1);
  await pool.close();
  await assert.rejects(
    pool.run("digest", { path: "/dev/null", digest: ABC }),
    (error) => error instanceof ImageError && error.code === "Canceled",
  );
});

test("a semaphore lets so many in, in order, and those who give up do not count", async () => {
  const slots = new Semaphore(2);
  const order: string[] = [];
  const gates = Array.from({ length: 4 }, () => Promise.withResolvers<void>());
  const abort = new AbortController();
  const { signal } = new AbortController();
  const runs = ["a", "b", "c", "d"].map(
    async (name, index) =>
      await slots.run(name === "c" ? abort.signal : signal, async () => {
        order.push(name);
        await gates[index]?.promise;
      }),
  );
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(order, ["a", "b"]);
  const refused = assert.rejects(
    runs[2] as Promise<void>,
    (error) => error instanceof ImageError && error.code === "Canceled",
  );
  abort.abort();
  await refused;
  for (const gate of gates) gate.resolve();
  await Promise.all([runs[0], runs[1], runs[3]]);
  assert.deepEqual(order, ["a", "b", "d"]);
});

test("a semaphore's heavier ones wait for room, and nobody overtakes them", async () => {
  const slots = new Semaphore(4);
  const { signal } = new AbortController();
  const order: string[] = [];
  const gates = { a: Promise.withResolvers<void>(), b: Promise.withResolvers<void>() };
  const enter = async (name: string, weight: number, gate?: Promise<void>): Promise<void> => {
    await slots.run(
      signal,
      async () => {
        order.push(name);
        await gate;
      },
      weight,
    );
  };
  const first = [enter("a", 3, gates.a.promise), enter("b", 1, gates.b.promise)];
  const later = [enter("heavy", 4), enter("light", 1)];
  gates.b.resolve();
  await first[1];
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(order, ["a", "b"]);
  gates.a.resolve();
  await Promise.all([...first, ...later]);
  assert.deepEqual(order, ["a", "b", "heavy", "light"]);
});
