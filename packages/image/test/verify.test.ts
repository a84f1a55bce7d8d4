/** Which images may be pulled: containerd's verifier programs, and signatures by public key. */
import assert from "node:assert/strict";
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { image, parseReference } from "@berth/spec/oci";
import { identityMatches, type Identity } from "../src/verify/identity.ts";
import { readPolicy, requirementsFor } from "../src/verify/policy.ts";
import { app, isError, registryFor, rigFor, skip } from "./support/fixtures.ts";
import { type BuiltImage, digest, type FakeRegistry } from "./support/registry.ts";
import { bosunRig, leftovers, openImages, scratch, whyNoBosun } from "./support/store.ts";
import { archive } from "./support/tar-writer.ts";

interface Pair {
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}
const ec = (): Pair => generateKeyPairSync("ec", { namedCurve: "P-256" });
const KEYS = {
  ecdsa: ec(),
  rsa: generateKeyPairSync("rsa", { modulusLength: 2048 }),
  ed25519: generateKeyPairSync("ed25519"),
};

function pem(directory: string, { publicKey }: Pair, name = "cosign.pub"): string {
  const path = join(directory, name);
  writeFileSync(path, publicKey.export({ type: "spki", format: "pem" }));
  return path;
}

interface Claim {
  readonly reference: string;
  readonly digest: string;
  readonly type?: string;
}

/** What `cosign sign --key` leaves beside an image; `of`: the digest that the tag is for. */
function signImage(registry: FakeRegistry, name: string, of: string, key: KeyObject, claim: Claim): void {
  const payload = Buffer.from(
    JSON.stringify({
      critical: {
        identity: { "docker-reference": claim.reference },
        image: { "docker-manifest-digest": claim.digest },
        type: claim.type ?? "cosign container image signature",
      },
      optional: null,
    }),
  );
  const signature = sign(key.asymmetricKeyType === "ed25519" ? null : "sha256", payload, key).toString("base64");
  registry.blobs.set(digest(payload), payload);
  const manifest = {
    schemaVersion: 2,
    mediaType: image.MEDIA.ociManifest,
    config: { mediaType: image.MEDIA.ociConfig, digest: digest(Buffer.from("{}")), size: 2 },
    layers: [
      {
        mediaType: "application/vnd.dev.cosign.simplesigning.v1+json",
        digest: digest(payload),
        size: payload.length,
        annotations: { "dev.cosignproject.cosign/signature": signature },
      },
    ],
  };
  const bytes = Buffer.from(JSON.stringify(manifest));
  registry.document(name, `${of.replace(":", "-")}.sig`, bytes, image.MEDIA.ociManifest);
}

interface Signed {
  readonly registry: FakeRegistry;
  readonly built: BuiltImage;
  readonly reference: string;
  readonly directory: string;
  /** Pulls with sigstoreSigned for this registry. */
  readonly pull: (requirement: object) => Promise<string>;
}

async function signedRegistry(t: TestContext): Promise<Signed> {
  const [registry, rig, directory] = [await registryFor(t), await rigFor(t), scratch(t)];
  const built = app("x");
  const reference = registry.push("team/app", "1", built);
  const policyPath = join(directory, "policy.json");
  const images = await openImages(t, rig, { verification: { policyPath } });
  const pull = async (requirement: object): Promise<string> => {
    const docker = { [registry.host]: [requirement] };
    writeFileSync(policyPath, JSON.stringify({ default: [{ type: "reject" }], transports: { docker } }));
    const { id } = await images.pull(reference);
    await images.remove(id);
    assert.deepEqual(leftovers(rig.root), []);
    return id;
  };
  return { registry, built, reference, directory, pull };
}

for (const [kind, pair] of Object.entries(KEYS)) {
  test(`a signature by an ${kind} key that the policy names`, skip, async (t) => {
    const { registry, built, directory, pull } = await signedRegistry(t);
    const keyPath = pem(directory, pair);
    const requirement = { type: "sigstoreSigned", keyPath, signedIdentity: { type: "matchRepository" } };
    await assert.rejects(
      pull(requirement),
      isError("VerificationFailed", /refused by the signature policy .*: it must be signed, and there is no signature/),
    );
    const claim = { reference: `${registry.host}/team/app`, digest: built.manifestDigest };
    signImage(registry, "team/app", built.manifestDigest, ec().privateKey, claim);
    await assert.rejects(pull(requirement), isError("VerificationFailed", /it is by none of the policy's keys/));
    signImage(registry, "team/app", built.manifestDigest, pair.privateKey, claim);
    assert.equal(await pull(requirement), built.id);
    const keyData = readFileSync(keyPath).toString("base64");
    const other = pem(directory, ec(), "other.pub");
    assert.equal(await pull({ ...requirement, keyPath: undefined, keyData }), built.id);
    assert.equal(await pull({ ...requirement, keyPath: undefined, keyPaths: [other, keyPath] }), built.id);
    await assert.rejects(
      pull({ type: "sigstoreSigned", keyPath }),
      isError("VerificationFailed", /a signature is for ".*team\/app" \(signedIdentity: matchRepoDigestOrExact\)/),
      "cosign's signatures have no tag",
    );
  });
}

test("signatures of another image, for another name, of another kind do not count", skip, async (t) => {
  const { registry, built, directory, pull } = await signedRegistry(t);
  const { privateKey } = KEYS.ecdsa;
  const requirement = {
    type: "sigstoreSigned",
    keyPath: pem(directory, KEYS.ecdsa),
    signedIdentity: { type: "matchRepository" },
  };
  const reference = `${registry.host}/team/app`;
  const claims: readonly (readonly [claim: Claim, message: RegExp])[] = [
    [{ reference, digest: digest(Buffer.from("other")) }, /a signature is of sha256:/],
    [{ reference: `${registry.host}/team/other`, digest: built.manifestDigest }, /a signature is for ".*other"/],
    [{ reference, digest: built.manifestDigest, type: "atomic container signature" }, /payload is of type "atomic/],
    [{ reference: "No Reference", digest: built.manifestDigest }, /a signature is for "No Reference"/],
  ];
  for (const [claim, message] of claims) {
    signImage(registry, "team/app", built.manifestDigest, privateKey, claim);
    await assert.rejects(pull(requirement), isError("VerificationFailed", message));
  }
});

test("of an index, a signature of it or of the chosen image counts", skip, async (t) => {
  const { registry, built, directory, pull } = await signedRegistry(t);
  const entry = { mediaType: image.MEDIA.ociManifest, digest: built.manifestDigest, size: built.manifest.length };
  const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: image.MEDIA.ociIndex, manifests: [entry] }));
  registry.document("team/app", "1", index, image.MEDIA.ociIndex);
  const keyPath = pem(directory, KEYS.ecdsa);
  const requirement = { type: "sigstoreSigned", keyPath, signedIdentity: { type: "matchExact" } };
  const reference = `${registry.host}/team/app:1`;
  for (const signed of [digest(index), built.manifestDigest]) {
    await assert.rejects(pull(requirement), isError("VerificationFailed", /no signature/));
    signImage(registry, "team/app", signed, KEYS.ecdsa.privateKey, { reference, digest: signed });
    assert.equal(await pull(requirement), built.id);
    registry.manifests.delete(`team/app/${signed.replace(":", "-")}.sig`);
  }
});

test(
  "what the policy rejects, or asks in a way that berth cannot check, is refused with the reason",
  skip,
  async (t) => {
    const { directory, pull } = await signedRegistry(t);
    const keyPath = pem(directory, KEYS.ecdsa);
    await assert.rejects(pull({ type: "reject" }), isError("VerificationFailed", /rejects every image of this name/));
    await assert.rejects(
      pull({ type: "signedBy", keyType: "GPGKeys", keyPath }),
      isError("VerificationFailed", /requires a GPG signature \(signedBy\), which berth does not check/),
    );
    await assert.rejects(
      pull({ type: "sigstoreSigned", keyPath, rekorPublicKeyPath: keyPath }),
      isError("VerificationFailed", /requires "rekorPublicKeyPath"/),
    );
    assert.ok(await pull({ type: "insecureAcceptAnything" }));
  },
);

test("an archive has no signatures: what must be signed is not imported", skip, async (t) => {
  const [rig, directory] = [await rigFor(t), scratch(t)];
  const policyPath = join(directory, "policy.json");
  const images = await openImages(t, rig, { verification: { policyPath } });
  const layer = archive({ name: "f" });
  const config = Buffer.from(
    JSON.stringify({
      os: "linux",
      architecture: process.arch === "x64" ? "amd64" : process.arch,
      rootfs: { type: "layers", diff_ids: [digest(layer)] },
    }),
  );
  const manifest = JSON.stringify([{ Config: "c.json", RepoTags: ["a:1"], Layers: ["l.tar"] }]);
  const tar = archive(
    { name: "manifest.json", data: manifest },
    { name: "c.json", data: config },
    { name: "l.tar", data: layer },
  );
  const file = join(directory, "a.tar");
  writeFileSync(file, tar);
  const load = async (policy: object): Promise<unknown> => {
    writeFileSync(policyPath, JSON.stringify(policy));
    return await images.importArchive(createReadStream(file));
  };
  await assert.rejects(
    load({ default: [{ type: "sigstoreSigned", keyPath: pem(directory, KEYS.ecdsa) }] }),
    isError("VerificationFailed", /import \(docker-archive\) is refused .*archives carry no signatures/),
  );
  const accept = [{ type: "insecureAcceptAnything" }];
  await load({ default: [{ type: "reject" }], transports: { "docker-archive": { "": accept } } });
  assert.equal(images.list().length, 1);
});

test("the most specific scope counts", async (t) => {
  const path = join(scratch(t), "policy.json");
  const scopes = ["r.example:5000/a/b:1", "r.example:5000/a/b", "r.example:5000/a", "r.example:5000", "*.example", ""];
  const write = (left: readonly string[]): void =>
    writeFileSync(
      path,
      JSON.stringify({
        default: [{ type: "insecureAcceptAnything" }, { type: "reject" }],
        transports: {
          docker: Object.fromEntries(left.map((scope) => [scope, left.map(() => ({ type: "reject" }))])),
        },
      }),
    );
  // Each scope's list is as long as there are scopes left, by which it is known.
  for (let left = scopes.length; left > 0; left--) {
    write(scopes.slice(scopes.length - left));
    const found = requirementsFor(await readPolicy(path), "docker", parseReference("r.example:5000/a/b:1"));
    assert.equal(found.length, left);
  }
  const policy = await readPolicy(path);
  assert.equal(requirementsFor(policy, "oci-archive").length, 2);
  write(["*.example", "r.exam"]);
  const other = await readPolicy(path);
  assert.equal(requirementsFor(other, "docker", parseReference("r.example.org/a")).length, 2, "the default");
  assert.equal(requirementsFor(other, "docker", parseReference("sub.r.example/a")).length, 2);
});

const IDENTITIES: readonly (readonly [Identity, image: string, signed: string, matches: boolean])[] = [
  [{ type: "matchExact" }, "r.example/a:1", "r.example/a:1", true],
  [{ type: "matchExact" }, "r.example/a", "r.example/a:latest", true],
  [{ type: "matchExact" }, "r.example/a:1", "r.example/a:2", false],
  [{ type: "matchExact" }, "r.example/a:1", "r.example/a", false],
  [{ type: "matchExact" }, `r.example/a@sha256:${"0".repeat(64)}`, "r.example/a:1", false],
  [{ type: "matchRepoDigestOrExact" }, `r.example/a@sha256:${"0".repeat(64)}`, "r.example/a:1", true],
  [{ type: "matchRepoDigestOrExact" }, "r.example/a:1", "r.example/a:2", false],
  [{ type: "matchRepository" }, "busybox:1", "index.docker.io/library/busybox", true],
  [{ type: "matchRepository" }, "busybox:1", "docker.io/other/busybox", false],
  [{ type: "exactReference", name: "v.example/a:1" }, "r.example/b:9", "v.example/a:1", true],
  [{ type: "exactReference", name: "v.example/a:1" }, "r.example/b:9", "v.example/a:2", false],
  [{ type: "exactRepository", name: "v.example/a" }, "r.example/b:9", "v.example/a:2", true],
  [
    { type: "remapIdentity", prefix: "m.example/v", signedPrefix: "v.example" },
    "m.example/v/a:1",
    "v.example/a:1",
    true,
  ],
  [
    { type: "remapIdentity", prefix: "m.example/v", signedPrefix: "v.example" },
    "m.example/vv/a:1",
    "v.examplev/a:1",
    false,
  ],
  [
    { type: "remapIdentity", prefix: "m.example", signedPrefix: "v.example" },
    "m.example:5000/a:1",
    "v.example:5000/a:1",
    false,
  ],
  [{ type: "remapIdentity", prefix: "m.example", signedPrefix: "v.example" }, "r.example/a:1", "r.example/a:1", true],
];

test("identities", () => {
  for (const [identity, name, signed, matches] of IDENTITIES)
    assert.equal(
      identityMatches(identity, parseReference(name), signed),
      matches,
      `${identity.type} ${name} ${signed}`,
    );
});

const accept = [{ type: "insecureAcceptAnything" }];
const WRONG: readonly (readonly [policy: unknown, message: RegExp])[] = [
  [{}, /"default" is missing/],
  [{ default: [] }, /default must be a list of requirements, not empty/],
  [{ default: accept, more: 1 }, /the file: unknown key "more"/],
  [{ default: [{ type: "sigstore" }] }, /default\[0\]: type "sigstore" is unknown/],
  [{ default: [{ type: "reject", keyPath: "x" }] }, /default\[0\]: unknown key "keyPath"/],
  [{ default: [{ type: "sigstoreSigned" }] }, /exactly one of keyPath/],
  [{ default: [{ type: "sigstoreSigned", keyPath: "/none.pub" }] }, /no such file .*\/none\.pub/],
  [{ default: [{ type: "sigstoreSigned", keyData: "eA==" }] }, /keyData is no public key in PEM form/],
  [{ default: [{ type: "sigstoreSigned", keyPaths: [] }] }, /names no key/],
  [{ default: [{ type: "sigstoreSigned", keyData: "PRIVATE" }] }, /is not a public key/],
  [{ default: accept, transports: { docker: { x: [{ type: "x" }] } } }, /transports\.docker\."x"\[0\]: type "x"/],
];

test("a policy that is wrong is told, and nothing is pulled", async (t) => {
  const path = join(scratch(t), "policy.json");
  const secret = Buffer.from(KEYS.ecdsa.privateKey.export({ type: "pkcs8", format: "pem" })).toString("base64");
  for (const [policy, message] of WRONG) {
    writeFileSync(path, JSON.stringify(policy).replace("PRIVATE", secret));
    await assert.rejects(readPolicy(path), isError("InvalidConfiguration", message));
  }
  const key = Buffer.from(KEYS.ecdsa.publicKey.export({ type: "spki", format: "pem" })).toString("base64");
  const withIdentity = (signedIdentity: object): string =>
    JSON.stringify({ default: [{ type: "sigstoreSigned", keyData: key, signedIdentity }] });
  for (const [identity, message] of [
    [{ type: "matchAll" }, /signedIdentity\.type "matchAll" is unknown/],
    [{ type: "exactReference" }, /signedIdentity\.dockerReference must be a string/],
    [{ type: "matchExact", prefix: "x" }, /signedIdentity: unknown key "prefix"/],
  ] as const) {
    writeFileSync(path, withIdentity(identity));
    await assert.rejects(readPolicy(path), isError("InvalidConfiguration", message));
  }
  await assert.rejects(readPolicy(`${path}.gone`), isError("InvalidConfiguration", /cannot be read/));
});

test("verifier programs: each is asked, in order, and each may refuse", async (t) => {
  const missing = whyNoBosun();
  if (missing !== undefined) return t.skip(missing);
  const [registry, directory] = [await registryFor(t), scratch(t)];
  const built = app("x");
  const reference = registry.push("a", "1", built);
  const binDir = join(directory, "bin");
  const told: string[] = [];
  const images = await openImages(t, await bosunRig(t), {
    verification: { verifiers: { binDir, maxVerifiers: 2, perVerifierTimeoutMs: 300 } },
    log: (_, message) => void told.push(message),
  });
  const program = (name: string, script: string): void => {
    mkdirSync(binDir, { recursive: true });
    writeFileSync(join(binDir, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(binDir, name), 0o755);
  };
  assert.equal((await images.pull(reference)).id, built.id, "no directory, no refusal");
  program("1-first", `echo "$@" >${directory}/asked; cat >>${directory}/asked; echo debugging >&2`);
  assert.equal((await images.pull(reference)).id, built.id);
  const [argv = "", stdin = ""] = readFileSync(`${directory}/asked`, "utf8").split("\n");
  assert.equal(
    argv,
    `-name ${reference} -digest ${built.manifestDigest} -stdin-media-type application/vnd.oci.descriptor.v1+json`,
  );
  assert.deepEqual(JSON.parse(stdin), {
    mediaType: image.MEDIA.ociManifest,
    digest: built.manifestDigest,
    size: built.manifest.length,
  });
  assert.ok(told.includes("image verifier 1-first: debugging"));
  program("2-second", "echo not this one; exit 3");
  await assert.rejects(
    images.pull(reference),
    isError("VerificationFailed", /verifier 2-second rejected image \(exit code 3\): not this one/),
  );
  program("0-zeroth", "exit 0");
  assert.equal((await images.pull(reference)).id, built.id, "the third is not asked");
  assert.ok(told.some((message) => /has 3 image verifiers, and only the first 2 are asked/.test(message)));
  program("0-zeroth", "sleep 10");
  await assert.rejects(images.pull(reference), isError("VerificationFailed", /cannot ask the verifier 0-zeroth/));
  writeFileSync(join(binDir, "0-zeroth"), "");
  chmodSync(join(binDir, "0-zeroth"), 0o644);
  await assert.rejects(images.pull(reference), isError("VerificationFailed", /0-zeroth/));
  assert.ok(existsSync(binDir));
  return undefined;
});
