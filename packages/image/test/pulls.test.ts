/** Pulls are watched by those who asked for them and by those who did not. */
import assert from "node:assert/strict";
import test from "node:test";
import type { PullEvent } from "../src/pulls.ts";
import { app, isError, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { digest } from "./support/registry.ts";
import { openImages } from "./support/store.ts";

test("a watcher that comes in the middle hears how far it is, the rest, and the end", skip, async (t) => {
  const registry = await registryFor(t);
  const images = await openImages(t, await rigFor(t));
  const built = app("slow");
  const reference = registry.push("a", "1", built);
  const slow = built.layers[1] as Buffer;
  const [reached, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  registry.hook = async (_, response, url) => {
    if (!url.pathname.endsWith(digest(slow))) return false;
    response.writeHead(200, { "content-length": slow.length });
    response.write(slow.subarray(0, 20));
    reached.resolve();
    await gate.promise;
    response.end(slow.subarray(20));
    return true;
  };
  const own: string[] = [];
  const pull = images.pull(reference, { progress: ({ id, status }) => own.push(`${id} ${status}`) });
  await reached.promise;
  assert.deepEqual(
    images.pulls.list().map(({ reference: name }) => name),
    [reference],
  );
  const abort = new AbortController();
  const events: PullEvent[] = [];
  images.pulls.watch((event) => void events.push(event), abort.signal);
  const known = events.map(({ progress }) => progress?.id);
  assert.ok(known.includes("manifest") && known.includes("config") && known.includes(digest(slow)), String(known));
  gate.resolve();
  await pull;
  const [end, before] = [events.at(-1), events.at(-2)];
  assert.deepEqual([end?.reference, end?.progress, end?.error], [reference, undefined, undefined]);
  assert.equal(before?.progress?.status, "done");
  assert.ok(own.includes(`${digest(slow)} done`));
  assert.deepEqual(images.pulls.list(), []);
  await assert.rejects(images.pull(`${registry.host}/a:2`), isError("NotFound"));
  assert.match(events.at(-1)?.error ?? "", /^not found: /);
  abort.abort();
  const heard = events.length;
  await images.pull(reference);
  assert.equal(events.length, heard);
});
