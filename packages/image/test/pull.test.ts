/** Which images a pull takes, how it fails and how it is given up: one clear error, and nothing left. */
import assert from "node:assert/strict";
import test from "node:test";
import { image } from "@berth/spec";
import type { ImageErrorCode } from "../src/errors.ts";
import { app, base, isError, layer, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { build, digest, type FakeRegistry } from "./support/registry.ts";
import { leftovers, openImages } from "./support/store.ts";

test("an image for another platform is refused, unless that is asked for", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const other = app("x", { platform: { os: "linux", architecture: "s390x" } });
  const reference = registry.push("a", "1", other);
  await assert.rejects(
    images.pull(reference),
    isError("Unsupported", /the image is for linux\/s390x, not for linux\//),
  );
  assert.deepEqual(leftovers(rig.root), []);
  assert.equal((await images.pull(reference, { platform: { os: "linux", architecture: "s390x" } })).id, other.id);
});

test("a registry that does not know HEAD", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const reference = registry.push("a", "1", app("x"));
  registry.hook = (request, response) => {
    if (request.method !== "HEAD") return false;
    response.writeHead(405).end();
    return true;
  };
  assert.deepEqual(await images.pull(reference), await images.pull(reference));
});

test("indexes that are hostile or nested too deep are refused", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  const indexOf = (digestOfChild: string, mediaType: string): Buffer =>
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: image.MEDIA.ociIndex,
        manifests: [{ mediaType, digest: digestOfChild, size: 5 }],
      }),
    );
  registry.document("a", "path", indexOf("../../../secret", image.MEDIA.ociManifest), image.MEDIA.ociIndex);
  await assert.rejects(images.pull(`${registry.host}/a:path`), isError("InvalidImage", /manifests\[0\]: digest/));
  let child = app("x").manifestDigest;
  let last = indexOf(child, image.MEDIA.ociManifest);
  registry.push("a", "inner", app("x"));
  for (let depth = 0; depth < 4; depth++) {
    registry.document("a", `depth${depth}`, last, image.MEDIA.ociIndex);
    child = digest(last);
    last = indexOf(child, image.MEDIA.ociIndex);
  }
  await assert.rejects(images.pull(`${registry.host}/a:depth3`), isError("InvalidImage", /nest deeper/));
  const nested = await images.pull(`${registry.host}/a:depth1`);
  assert.equal(nested.id, app("x").id);
  await images.close();
  const again = await openImages(t, rig);
  assert.deepEqual(again.list(), [nested]);
  await again.remove(nested.id);
  assert.deepEqual(leftovers(rig.root), []);
});

test("an index: this machine's image is chosen, or another that is asked for", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const builds = {
    amd64: app("amd64", { platform: { os: "linux", architecture: "amd64" } }),
    arm64: app("arm64", { platform: { os: "linux", architecture: "arm64" } }),
  };
  for (const built of Object.values(builds)) registry.push("a", "unused", built);
  const entry = (name: "amd64" | "arm64"): image.Descriptor => ({
    mediaType: image.MEDIA.ociManifest,
    digest: builds[name].manifestDigest,
    size: builds[name].manifest.length,
    platform: { os: "linux", architecture: name },
  });
  const index = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: image.MEDIA.ociIndex, manifests: [entry("arm64"), entry("amd64")] }),
  );
  registry.document("a", "multi", index, image.MEDIA.ociIndex);
  const images = await openImages(t, rig);
  const reference = `${registry.host}/a:multi`;
  const arm = await images.pull(reference, { platform: { os: "linux", architecture: "arm64" } });
  assert.equal(arm.id, builds.arm64.id);
  const amd = await images.pull(reference, { platform: { os: "linux", architecture: "amd64" } });
  assert.equal(amd.id, builds.amd64.id);
  assert.deepEqual(amd.digests, [`${registry.host}/a@${digest(index)}`], "the digest is the index's");
  await assert.rejects(
    images.pull(reference, { platform: { os: "linux", architecture: "s390x" } }),
    isError("Unsupported", /no image for linux\/s390x .* only for linux\/arm64, linux\/amd64/),
  );
});

interface Failure {
  readonly name: string;
  readonly code: ImageErrorCode;
  readonly message: RegExp;
  readonly built: ReturnType<typeof build>;
  readonly damage?: (registry: FakeRegistry, built: ReturnType<typeof build>) => void;
}

const setLayer = (registry: FakeRegistry, built: ReturnType<typeof build>, bytes: Buffer): void =>
  void registry.blobs.set(digest(built.layers[1] as Buffer), bytes);
const FAILURES: readonly Failure[] = [
  {
    name: "a layer with other content",
    code: "DigestMismatch",
    message: /digest/,
    built: app("x"),
    damage: (registry, built) => {
      const bytes = Buffer.from(built.layers[1] as Buffer);
      bytes[40] = (bytes[40] as number) ^ 0xff;
      setLayer(registry, built, bytes);
    },
  },
  {
    name: "a layer cut short",
    code: "DigestMismatch",
    message: /has 50 bytes of it, shorter than/,
    built: app("x"),
    damage: (registry, built) => setLayer(registry, built, (built.layers[1] as Buffer).subarray(0, 50)),
  },
  {
    name: "a layer that is longer",
    code: "DigestMismatch",
    message: /longer/,
    built: app("x"),
    damage: (registry, built) =>
      setLayer(registry, built, Buffer.concat([built.layers[1] as Buffer, Buffer.alloc(10)])),
  },
  {
    name: "a layer that is not there",
    code: "NotFound",
    message: /blob/,
    built: app("x"),
    damage: (registry, built) => void registry.blobs.delete(digest(built.layers[1] as Buffer)),
  },
  {
    name: "a layer that unpacks to something else",
    code: "DigestMismatch",
    message: /unpacks to/,
    built: app("x", { diffIds: [digest(base), digest(Buffer.from("lie"))] }),
  },
  {
    name: "a layer that is no archive",
    code: "InvalidImage",
    message: /layer sha256:.*tar/,
    built: build([base, Buffer.from("not a tar archive at all".repeat(50))]),
  },
  {
    name: "a layer with a path that needs a directory where a file is",
    code: "InvalidImage",
    message: /no directory/,
    built: build([base, layer({ name: "f" }, { name: "f/x" })]),
  },
  {
    name: "a config with other layers than the manifest",
    code: "InvalidImage",
    message: /names 1 layers, its manifest 2/,
    built: app("x", { diffIds: [digest(base)] }),
  },
  {
    name: "a layer of no known type",
    code: "Unsupported",
    message: /no file system layer/,
    built: app("x", { layerType: "application/wasm" }),
  },
  {
    name: "a config that lies about a field",
    code: "InvalidImage",
    message: /config\.Env is no list/,
    built: app("x", { config: { Env: "A=b" } as never }),
  },
];

for (const { name, code, message, built, damage } of FAILURES) {
  test(`${name}: one clear error, nothing left`, skip, async (t) => {
    const [registry, rig] = [await registryFor(t), await rigFor(t)];
    const images = await openImages(t, rig);
    const reference = registry.push("a", "1", built);
    damage?.(registry, built);
    await assert.rejects(images.pull(reference), isError(code, message));
    assert.deepEqual(images.list(), []);
    assert.deepEqual(leftovers(rig.root), []);
    assert.deepEqual(await images.recover(), []);
  });
}

test("names that are none, and images that are not there", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  await assert.rejects(images.pull("Not/A:Reference:"), isError("InvalidReference", /Not\/A/));
  await assert.rejects(images.pull(`${registry.host}/none:1`), isError("NotFound", /none:1/));
  await assert.rejects(images.prepareRootfs("c", "none"), isError("NotFound", /no such image: none/));
  await images.remove("none");
  await images.removeRootfs("none");
});

test("an abort ends a pull within 100 ms and leaves nothing, another waiter goes on", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const built = app("slow");
  const reference = registry.push("a", "1", built);
  const slow = digest(built.layers[1] as Buffer);
  const gate = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  registry.hook = async (_, response, url) => {
    if (!url.pathname.endsWith(slow)) return false;
    const bytes = built.layers[1] as Buffer;
    response.writeHead(200, { "content-length": bytes.length });
    response.write(bytes.subarray(0, 20));
    reached.resolve();
    await gate.promise;
    response.end(bytes.subarray(20));
    return true;
  };
  const images = await openImages(t, rig);
  const abort = new AbortController();
  const first = assert.rejects(images.pull(reference, { signal: abort.signal }), isError("Canceled"));
  const other = new AbortController();
  const second = images.pull(reference, { signal: other.signal });
  await reached.promise;
  // Both wait for the layer: the second has asked for the manifest by the time that it is reached, or soon after.
  while (registry.count(/GET .*manifests/) < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  abort.abort();
  await first; // before the gate opens
  gate.resolve();
  assert.equal((await second).id, built.id);
  await images.remove(reference);

  registry.hook = (_, response, url) => {
    if (!url.pathname.endsWith(slow)) return false;
    response.writeHead(200, { "content-length": 1000 });
    response.write("x");
    third.abort();
    return true;
  };
  const third = new AbortController();
  await assert.rejects(images.pull(reference, { signal: third.signal }), isError("Canceled"));
  await images.close();
  assert.deepEqual(leftovers(rig.root), []);
});

test("an abort before the start, and while waiting for a place", skip, async (t) => {
  const [registry, rig] = [await registryFor(t), await rigFor(t)];
  const images = await openImages(t, rig);
  await assert.rejects(
    images.pull(registry.push("a", "1", app("x")), { signal: AbortSignal.abort() }),
    isError("Canceled"),
  );
  assert.deepEqual(registry.requests, []);
  await assert.rejects(
    images.pull(`${registry.host}/a:1`, { signal: AbortSignal.timeout(1) }),
    isError("DeadlineExceeded"),
  );
});
