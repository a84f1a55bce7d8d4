/** Mirrors that are down, break off or send something else: the next host is asked, soon, and the image is right. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { parseReference } from "@berth/spec";
import { ImageError } from "../src/errors.ts";
import type { Images } from "../src/images.ts";
import { RegistryClient } from "../src/registry/client.ts";
import { HttpClient } from "../src/registry/http.ts";
import { DEFAULT_RETRY, isUnreached, retrying, type RetryPolicy, Transient } from "../src/registry/retry.ts";
import { app, isError, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { digest, type FakeRegistry } from "./support/registry.ts";
import { leftovers, openImages, QUICK, scratch } from "./support/store.ts";

const failed = (code: string): Error => Object.assign(new Error(code), { code });
const unavailable = (cause: Error): ImageError => new ImageError("Unavailable", "no answer", { cause });

interface Setup {
  readonly images: Images;
  readonly mirror: FakeRegistry;
  readonly upstream: FakeRegistry;
  readonly reference: string;
  readonly root: string;
  readonly warnings: readonly string[];
}

const built = app(randomBytes(100_000).toString("hex"));
const layer = built.layers.at(-1) as Buffer;
const blobOf = (bytes: Buffer): RegExp => new RegExp(`^GET .*/blobs/${digest(bytes)}$`);

function hostsDirectory(t: TestContext, upstream: string, mirrors: readonly string[]): string {
  const directory = scratch(t);
  mkdirSync(join(directory, "registry.example"));
  const hosts = mirrors.map((mirror) => `[host."http://${mirror}"]\n`).join("");
  writeFileSync(join(directory, "registry.example", "hosts.toml"), `server = "http://${upstream}"\n${hosts}`);
  return directory;
}

async function setUp(t: TestContext, retry: RetryPolicy = QUICK): Promise<Setup> {
  const [mirror, upstream, rig] = [await registryFor(t), await registryFor(t), await rigFor(t)];
  for (const each of [mirror, upstream]) each.push("a/b", "1", built);
  const warnings: string[] = [];
  const images = await openImages(t, rig, {
    retry,
    registries: { hostsDirs: [hostsDirectory(t, upstream.host, [mirror.host])] },
    log: (_, message) => warnings.push(message),
  });
  return { images, mirror, upstream, reference: "registry.example/a/b:1", root: rig.root, warnings };
}

test("a mirror's layer of the right length with other bytes: the registry's is taken", skip, async (t) => {
  const { images, mirror, upstream, reference, warnings } = await setUp(t);
  const damaged = Buffer.from(layer);
  damaged[damaged.length >> 1] = (damaged[damaged.length >> 1] as number) ^ 0xff;
  mirror.blobs.set(digest(layer), damaged);
  assert.equal((await images.pull(reference)).id, built.id);
  assert.deepEqual([mirror.count(blobOf(layer)), upstream.count(blobOf(layer))], [1, 1]);
  assert.equal(upstream.count(/manifests/), 0, "all else is the mirror's");
  assert.match(warnings.join("\n"), /has digest sha256:.*\(from http:\/\/.*\): asking the next host/);
  for await (const problem of images.check()) assert.deepEqual(problem, undefined);
});

test("layers of other content everywhere fail with the first host's failure and leave nothing", skip, async (t) => {
  const { images, mirror, upstream, reference, root } = await setUp(t);
  const damaged = Buffer.from(layer);
  damaged.fill(0, 20, 40);
  for (const each of [mirror, upstream]) each.blobs.set(digest(layer), damaged);
  await assert.rejects(images.pull(reference), isError("DigestMismatch", /the content received has digest/));
  assert.deepEqual([mirror.count(blobOf(layer)), upstream.count(blobOf(layer))], [1, 1]);
  assert.deepEqual(leftovers(root), []);
});

test("a mirror's config of other content: the registry's is taken", skip, async (t) => {
  const { images, mirror, upstream, reference } = await setUp(t);
  mirror.blobs.set(built.id, Buffer.from(built.config.toString().replace("sh", "no")));
  assert.equal((await images.pull(reference)).id, built.id);
  assert.equal(upstream.count(blobOf(built.config)), 1);
});

test("a mirror that sends more than it may, without a length: the registry's is taken", skip, async (t) => {
  const { images, mirror, reference, upstream } = await setUp(t);
  mirror.hook = (_, response, url) => {
    if (!url.pathname.endsWith(digest(layer))) return false;
    response.writeHead(200).end(Buffer.concat([layer, Buffer.from("more")]));
    return true;
  };
  assert.equal((await images.pull(reference)).id, built.id);
  assert.equal(upstream.count(blobOf(layer)), 1);
});

test("a mirror that breaks off again and again: the rest comes from the registry", skip, async (t) => {
  const { images, mirror, reference, upstream } = await setUp(t);
  const half = layer.length >> 1;
  mirror.hook = (_, response, url) => {
    if (!url.pathname.endsWith(digest(layer))) return false;
    response.writeHead(200, { "content-length": layer.length });
    response.write(layer.subarray(0, half), () => response.destroy());
    return true;
  };
  const ranges: unknown[] = [];
  upstream.hook = (request, _, url) => {
    if (url.pathname.endsWith(digest(layer))) ranges.push(request.headers.range);
    return false;
  };
  assert.equal((await images.pull(reference)).id, built.id);
  assert.deepEqual(ranges, [`bytes=${half}-`]);
});

test("a mirror that refuses connections costs nothing: the next host is asked at once", skip, async (t) => {
  const { images, mirror, reference } = await setUp(t, { ...DEFAULT_RETRY, firstDelayMs: 60_000, maxDelayMs: 60_000 });
  await mirror.close();
  const begun = performance.now();
  assert.equal((await images.pull(reference)).id, built.id);
  assert.ok(performance.now() - begun < 60_000, "without one pause");
});

test("a registry that refuses connections is tried three times, not five", skip, async (t) => {
  const { images, mirror, upstream, reference } = await setUp(t);
  await mirror.close();
  await upstream.close();
  await assert.rejects(images.pull(reference), isError("Unavailable", /connection refused.*also tried/));
  const tried = async (code: string): Promise<number> => {
    let attempts = 0;
    const attempt = (): Promise<never> => {
      attempts++;
      return Promise.reject(new Transient(unavailable(failed(code))));
    };
    await assert.rejects(retrying({ ...QUICK, attempts: 5 }, undefined, attempt), isError("Unavailable"));
    return attempts;
  };
  assert.deepEqual([await tried("ECONNREFUSED"), await tried("ECONNRESET")], [3, 5]);
});

test("a host that was not to be reached is asked after all others for the rest of a pull", async (t) => {
  const [mirror, upstream] = [await registryFor(t), await registryFor(t)];
  for (const each of [mirror, upstream]) each.push("a/b", "1", built);
  const http = new HttpClient();
  t.after(() => http.close());
  const port = 1; // tcpmux: nobody serves it
  const options = {
    reference: parseReference("registry.example/a/b:1"),
    registries: { hostsDirs: [hostsDirectory(t, upstream.host, [`127.0.0.1:${port}`, mirror.host])] },
    retry: QUICK,
  };
  const client = new RegistryClient(http, options);
  await client.manifest();
  assert.deepEqual(client.session.unreached, [`http://127.0.0.1:${port}/v2`]);
  mirror.blobs.clear();
  const other = new RegistryClient(http, { ...options, session: client.session });
  await other.small({ mediaType: "", digest: built.id, size: built.config.length });
  assert.deepEqual(other.session, client.session);
  await assert.rejects(
    other.small({ mediaType: "", digest: digest(Buffer.from("absent")), size: 6 }),
    isError("NotFound", new RegExp(`${mirror.host}.*; .*${upstream.host}.*; .*127.0.0.1:${port}.*refused`)),
  );
});

test("nobody there: of the host or of the proxy before it; not where a connection breaks", () => {
  assert.ok(isUnreached(unavailable(failed("ECONNREFUSED"))));
  assert.ok(isUnreached(unavailable(new Error("the proxy cannot be used", { cause: failed("EHOSTUNREACH") }))));
  assert.ok(!isUnreached(unavailable(failed("ECONNRESET"))));
  assert.ok(!isUnreached(new ImageError("Unavailable", "503")));
});
