/** Pushing, copying and listing, against a registry in this process that stores what it is sent and can be told to misbehave. */
import assert from "node:assert/strict";
import test, { type TestContext } from "node:test";
import { image, parseReference, withDefaultTag } from "@berth/spec/oci";
import { RegistryClient } from "../src/registry/client.ts";
import { HttpClient } from "../src/registry/http.ts";
import { RegistryPusher } from "../src/registry/push.ts";
import { listReferrers, listTags } from "../src/registry/referrers.ts";
import { app, isError, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { digest } from "./support/registry.ts";
import { openImages, QUICK } from "./support/store.ts";

function pusherFor(t: TestContext, reference: string, options = {}): RegistryPusher {
  const http = new HttpClient();
  t.after(() => http.close());
  return new RegistryPusher(http, { reference: withDefaultTag(parseReference(reference)), retry: QUICK, ...options });
}

function clientFor(t: TestContext, reference: string): RegistryClient {
  const http = new HttpClient();
  t.after(() => http.close());
  return new RegistryClient(http, { reference: withDefaultTag(parseReference(reference)), retry: QUICK });
}

const sourceOf = (bytes: Buffer) => ({
  from: async function* (offset: number): AsyncGenerator<Uint8Array> {
    for (let at = offset; at < bytes.length; at += 65_536) yield await Promise.resolve(bytes.subarray(at, at + 65_536));
  },
});
const blobOf = (bytes: Buffer): image.Descriptor => ({
  mediaType: "application/octet-stream",
  digest: digest(bytes),
  size: bytes.length,
});

test("a blob in one request, and not at all where the registry has it", async (t) => {
  const registry = await registryFor(t);
  const pusher = pusherFor(t, `${registry.host}/a/b:1`);
  const bytes = Buffer.alloc(300_000, "blob");
  assert.equal(await pusher.blob(blobOf(bytes), sourceOf(bytes)), "pushed");
  assert.ok(registry.blobs.get(digest(bytes))?.equals(bytes));
  assert.deepEqual(registry.requests, [
    `HEAD /v2/a/b/blobs/${digest(bytes)}`,
    "POST /v2/a/b/blobs/uploads/",
    "PUT /v2/a/b/blobs/uploads/1",
  ]);
  assert.equal(await pusher.blob(blobOf(bytes), sourceOf(bytes)), "exists");
});

test("a blob that another repository has is mounted, or sent where that is refused", async (t) => {
  const registry = await registryFor(t);
  const pusher = pusherFor(t, `${registry.host}/a/b:1`);
  const bytes = Buffer.from("shared");
  registry.blobs.set(digest(bytes), bytes);
  registry.hook = (request, response) => {
    if (request.method !== "HEAD") return false;
    response.writeHead(404).end();
    return true;
  };
  const mountFrom = { path: "c" };
  assert.equal(await pusher.blob(blobOf(bytes), { ...sourceOf(bytes), mountFrom }), "mounted");
  registry.hook = (request, response, url) => {
    if (request.method === "HEAD") response.writeHead(404).end();
    else if (url.searchParams.has("mount")) response.writeHead(403).end();
    else return false;
    return true;
  };
  assert.equal(await pusher.blob(blobOf(bytes), { ...sourceOf(bytes), mountFrom }), "pushed");
});

test("an upload whose connection breaks goes on where the registry has got to", async (t) => {
  const registry = await registryFor(t);
  const bytes = Buffer.alloc(3_000_000, "0123456789");
  let cut = 0;
  registry.hook = (request) => {
    if (request.method !== "PUT" || cut > 0) return false;
    cut++;
    request.on("data", (chunk: Buffer) => {
      registry.uploads.set("1", Buffer.concat([registry.uploads.get("1") ?? Buffer.alloc(0), chunk]));
      if ((registry.uploads.get("1")?.length ?? 0) > 1_000_000) request.socket.destroy();
    });
    return true;
  };
  assert.equal(await pusherFor(t, `${registry.host}/a:1`).blob(blobOf(bytes), sourceOf(bytes)), "pushed");
  assert.ok(registry.blobs.get(digest(bytes))?.equals(bytes));
  assert.equal(registry.count(/^POST/), 1, "no second upload was begun");
  assert.equal(registry.count(/^PATCH/), 1);
});

test("an upload that the registry has forgotten begins again", async (t) => {
  const registry = await registryFor(t);
  const bytes = Buffer.alloc(500_000, "x");
  let broken = false;
  registry.hook = (request, response) => {
    if (request.method === "GET") response.writeHead(404).end();
    else if (request.method !== "PUT" || broken) return false;
    else request.socket.destroy();
    broken = true;
    return true;
  };
  assert.equal(await pusherFor(t, `${registry.host}/a:1`).blob(blobOf(bytes), sourceOf(bytes)), "pushed");
  assert.equal(registry.count(/^POST/), 2);
});

test("where a proxy takes no large request, a blob goes in parts", async (t) => {
  const registry = await registryFor(t);
  const bytes = Buffer.alloc((16 << 20) * 2 + 5, "y");
  registry.hook = (request, response) => {
    if (Number(request.headers["content-length"] ?? 0) <= 16 << 20) return false;
    response.writeHead(413, { connection: "close" }).end();
    return true;
  };
  assert.equal(await pusherFor(t, `${registry.host}/a:1`).blob(blobOf(bytes), sourceOf(bytes)), "pushed");
  assert.ok(registry.blobs.get(digest(bytes))?.equals(bytes));
  assert.equal(registry.count(/^PATCH/), 3);
});

test("a registry that wants a login gets one that is good for pushing", async (t) => {
  const registry = await registryFor(t);
  const bytes = Buffer.from("secret");
  const scopes: string[] = [];
  registry.hook = (request, response, url) => {
    if (url.pathname === "/token") {
      scopes.push(...url.searchParams.getAll("scope"));
      response.end(JSON.stringify({ token: "t" }));
    } else if (request.headers.authorization !== "Bearer t") {
      const realm = `http://${registry.host}/token`;
      request.resume();
      response.writeHead(401, { "www-authenticate": `Bearer realm="${realm}",scope="repository:a:pull"` }).end();
    } else return false;
    return true;
  };
  assert.equal(await pusherFor(t, `${registry.host}/a:1`).blob(blobOf(bytes), sourceOf(bytes)), "pushed");
  assert.deepEqual(scopes, ["repository:a:pull,push"]);
  registry.hook = (_, response) => {
    response.writeHead(403).end();
    return true;
  };
  await assert.rejects(
    pusherFor(t, `${registry.host}/a:1`).blob(blobOf(bytes), sourceOf(bytes)),
    isError("Unauthorized", /access denied or no such repository: .*; may need a login/),
  );
});

test("an upload to another host gets no login; one to nowhere is told", async (t) => {
  const [registry, storage] = [await registryFor(t), await registryFor(t)];
  const bytes = Buffer.from("elsewhere");
  let seen: string | undefined = "none";
  storage.hook = (request) => {
    seen = request.headers.authorization;
    return false;
  };
  registry.hook = (request, response) => {
    if (request.method !== "POST") return false;
    request.resume();
    response.writeHead(202, { location: `http://${storage.host}/v2/a/blobs/uploads/9?signature=s` }).end();
    return true;
  };
  const credentials = { registryToken: "secret" };
  await pusherFor(t, `${registry.host}/a:1`, { credentials }).blob(blobOf(bytes), sourceOf(bytes));
  assert.equal(seen, undefined);
  assert.ok(storage.blobs.has(digest(bytes)));
  registry.hook = (request, response) => {
    if (request.method !== "POST") return false;
    request.resume();
    response.writeHead(202).end();
    return true;
  };
  await assert.rejects(
    pusherFor(t, `${registry.host}/a:1`).blob(blobOf(bytes), sourceOf(bytes)),
    isError("RegistryError", /does not say where to upload to/),
  );
});

test("tags over several pages; a list that leads elsewhere or is none is refused", async (t) => {
  const registry = await registryFor(t);
  let link = '</v2/a/tags/list?n=2&last=b>; rel="next"';
  registry.hook = (_, response, url) => {
    if (!url.pathname.endsWith("/tags/list")) return false;
    if (url.searchParams.get("last") === "b") response.end('{"name":"a","tags":["c"]}');
    else response.writeHead(200, { link }).end('{"name":"a","tags":["a","b"]}');
    return true;
  };
  assert.deepEqual(await listTags(clientFor(t, `${registry.host}/a`)), ["a", "b", "c"]);
  link = '<https://elsewhere.example/>; rel="next"';
  await assert.rejects(listTags(clientFor(t, `${registry.host}/a`)), isError("RegistryError", /at another host/));
  registry.hook = (_, response) => {
    response.end('{"name":"a","tags":null}');
    return true;
  };
  assert.deepEqual(await listTags(clientFor(t, `${registry.host}/a`)), []);
  registry.hook = (_, response) => {
    response.end('{"tags":"a"}');
    return true;
  };
  await assert.rejects(listTags(clientFor(t, `${registry.host}/a`)), isError("RegistryError", /list is none/));
});

/** A manifest that refers to `subject`. */
const referrer = (subject: Buffer, artifactType: string): Buffer =>
  Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: image.MEDIA.ociManifest,
      artifactType,
      config: { mediaType: image.MEDIA.ociEmpty, digest: digest(Buffer.from("{}")), size: 2 },
      layers: [],
      subject: { mediaType: image.MEDIA.ociManifest, digest: digest(subject), size: subject.length },
      annotations: { made: "here" },
    }),
  );

test("referrers by the API, and by the tag where there is none, which pushing keeps", async (t) => {
  const registry = await registryFor(t);
  const subject = app("x").manifest;
  const [one, two] = [referrer(subject, "test/one"), referrer(subject, "test/two")];
  const pusher = pusherFor(t, `${registry.host}/a:1`);
  for (const bytes of [one, two, one]) await pusher.manifest(bytes, image.MEDIA.ociManifest, undefined);
  const tag = digest(subject).replace(":", "-");
  assert.equal(registry.count(new RegExp(`^PUT .*${tag}`)), 2, "the third was known");
  const client = clientFor(t, `${registry.host}/a:1`);
  const entry = (bytes: Buffer, artifactType: string): image.Descriptor => ({
    mediaType: image.MEDIA.ociManifest,
    digest: digest(bytes),
    size: bytes.length,
    artifactType,
    annotations: { made: "here" },
  });
  assert.deepEqual(await listReferrers(client, digest(subject)), [entry(one, "test/one"), entry(two, "test/two")]);
  assert.deepEqual(await listReferrers(client, digest(subject), "test/two"), [entry(two, "test/two")]);
  assert.deepEqual(await listReferrers(client, digest(one)), []);
  registry.hook = (_, response, url) => {
    if (!url.pathname.includes("/referrers/")) return false;
    const index = { schemaVersion: 2, mediaType: image.MEDIA.ociIndex, manifests: [entry(two, "test/two")] };
    response.end(JSON.stringify(index));
    return true;
  };
  assert.deepEqual(await listReferrers(client, digest(subject), "test/two"), [entry(two, "test/two")]);
  assert.deepEqual(await listReferrers(client, digest(subject), "test/one"), [], "the registry need not filter");
});

test("what was pulled is tagged, pushed to another registry, and pulled from there the same", skip, async (t) => {
  const [from, to] = [await registryFor(t), await registryFor(t)];
  const images = await openImages(t, await rigFor(t));
  const built = app("x");
  const pulled = await images.pull(from.push("team/app", "1", built));
  const tagged = await images.tag(pulled.id.slice(7, 20), `${to.host}/other/app:2`);
  assert.deepEqual([tagged.id, tagged.tags], [pulled.id, [`${from.host}/team/app:1`, `${to.host}/other/app:2`]]);
  const progress = new Map<string, string>();
  const pushed = await images.remote.push(`${to.host}/other/app:2`, {
    progress: ({ id, status }) => progress.set(id, status),
  });
  assert.equal(pushed, built.manifestDigest);
  assert.deepEqual([...new Set(progress.values())], ["done"]);
  assert.equal(progress.size, 4, "two layers, the config, the manifest");
  await images.remove(pulled.id);
  assert.equal((await images.pull(`${to.host}/other/app:2`)).id, built.id);
  await assert.rejects(images.remote.push(`${to.host}/none:1`), isError("NotFound", /no such image: .*none:1/));
  await assert.rejects(images.tag("nothing", "a:1"), isError("NotFound", /no such image: nothing/));
  await assert.rejects(images.tag(built.id, `a@${built.id}`), isError("InvalidReference", /is a digest/));
});

test(
  "an index is pushed as its image where not all of it is here; copied with all, it stays what it is",
  skip,
  async (t) => {
    const [from, to] = [await registryFor(t), await registryFor(t)];
    const images = await openImages(t, await rigFor(t));
    const builds = ["amd64", "arm64"].map((architecture) =>
      app(architecture, { platform: { os: "linux", architecture } }),
    );
    for (const built of builds) from.push("a", "unused", built);
    const index = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: image.MEDIA.ociIndex,
        manifests: builds.map((built, i) => ({
          mediaType: image.MEDIA.ociManifest,
          digest: built.manifestDigest,
          size: built.manifest.length,
          platform: { os: "linux", architecture: ["amd64", "arm64"][i] },
        })),
      }),
    );
    from.document("a", "multi", index, image.MEDIA.ociIndex);
    const platform = { os: "linux", architecture: "arm64" };
    await images.pull(`${from.host}/a:multi`, { platform });
    await images.tag(`${from.host}/a:multi`, `${to.host}/b:1`);
    assert.equal(await images.remote.push(`${to.host}/b:1`), builds[1]?.manifestDigest);
    assert.equal(await images.remote.push(`${to.host}/b:1`, { platform }), builds[1]?.manifestDigest);
    const amd64 = { os: "linux", architecture: "amd64" };
    const other = isError("NotFound", /is here for linux\/arm64, not for linux\/amd64: pull it for that first/);
    await assert.rejects(images.remote.push(`${to.host}/b:1`, { platform: amd64 }), other);
    await assert.rejects(images.exportArchive([`${to.host}/b:1`], { platform: amd64 }).next(), other);
    for await (const chunk of images.exportArchive([`${to.host}/b:1`], { platform })) assert.ok(chunk.length > 0);
    assert.equal(
      await images.remote.copy(`${from.host}/a:multi`, `${to.host}/c:1`, { platform }),
      builds[1]?.manifestDigest,
    );
    assert.equal(await images.remote.copy(`${from.host}/a:multi`, `${to.host}/d:1`, { all: true }), digest(index));
    const copied = await images.pull(`${to.host}/d:1`, { platform: { os: "linux", architecture: "amd64" } });
    assert.equal(copied.id, builds[0]?.id);
    assert.deepEqual(await images.remote.tags(`${to.host}/d`), ["1"]);
    assert.deepEqual(await images.remote.referrers(`${to.host}/d:1`), []);
  },
);

test("an abort ends a push at once, and nothing is named", skip, async (t) => {
  const [from, to] = [await registryFor(t), await registryFor(t)];
  const images = await openImages(t, await rigFor(t));
  const pulled = await images.pull(from.push("a", "1", app("x")));
  await images.tag(pulled.id, `${to.host}/a:1`);
  const abort = new AbortController();
  const reached = Promise.withResolvers<void>();
  to.hook = (request) => {
    if (request.method === "PUT") reached.resolve();
    return request.method === "PUT";
  };
  const push = assert.rejects(images.remote.push(`${to.host}/a:1`, { signal: abort.signal }), isError("Canceled"));
  await reached.promise;
  abort.abort();
  await push;
  assert.equal(to.manifests.size, 0);
});
