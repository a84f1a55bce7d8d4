import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { ImageError } from "../src/errors.ts";
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

test("a job that blocks its worker is ended with it after an abort, and the pool goes on", async (t) => {
  const pool = new WorkerPool(1);
  t.after(() => pool.close());
  const root = scratch(t);
  const abc = join(root, "abc");
  writeFileSync(abc, "abc");
  writeFileSync(join(root, "blocking.mjs"), "export function openTree() { for (;;); }");
  const layer = {
    source: { kind: "file", path: "/dev/null" },
    descriptor: { mediaType: "x", digest: `sha256:${"0".repeat(64)}`, size: 0 },
    diffId: `sha256:${"0".repeat(64)}`,
    target: { kind: "tree", directory: root },
    tree: { module: `file://${root}/blocking.mjs`, socket: "" },
  } as const;
  await assert.rejects(
    pool.run("layer", layer, { signal: AbortSignal.timeout(50) }),
    (error) => error instanceof ImageError && error.code === "DeadlineExceeded",
  );
  assert.equal(await pool.run("digest", { path: abc, digest: ABC }), ABC);
  writeFileSync(join(root, "dying.mjs"), "export function openTree() { process.exit(3); }");
  await assert.rejects(
    pool.run("layer", { ...layer, tree: { module: `file://${root}/dying.mjs`, socket: "" } }),
    (error) => error instanceof ImageError && error.code === "Internal",
  );
  assert.equal(await pool.run("digest", { path: abc, digest: ABC }), ABC);
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
