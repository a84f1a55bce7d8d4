import assert from "node:assert/strict";
import test from "node:test";
import {
  acceptedPlatforms,
  type Descriptor,
  formatPlatform,
  isForeignLayerType,
  isLayerType,
  MEDIA,
  normalizePlatform,
  type Platform,
  selectManifest,
} from "../src/image.ts";

const linux = (architecture: string, variant?: string): Platform => ({
  os: "linux",
  architecture,
  ...(variant === undefined ? {} : { variant }),
});

test("platforms have one spelling", () => {
  const cases: readonly (readonly [Platform, string])[] = [
    [linux("x86_64"), "linux/amd64"],
    [linux("amd64", "v1"), "linux/amd64"],
    [linux("amd64", "v3"), "linux/amd64/v3"],
    [linux("aarch64"), "linux/arm64"],
    [linux("arm64", "v8"), "linux/arm64"],
    [linux("arm64", "8"), "linux/arm64"],
    [linux("arm"), "linux/arm/v7"],
    [linux("arm", "6"), "linux/arm/v6"],
    [linux("armhf"), "linux/arm/v7"],
    [linux("armel"), "linux/arm/v6"],
    [linux("i386"), "linux/386"],
    [{ os: "macOS", architecture: "ARM64" }, "darwin/arm64"],
    [linux("riscv64"), "linux/riscv64"],
  ];
  for (const [platform, wanted] of cases) assert.equal(formatPlatform(normalizePlatform(platform)), wanted);
});

test("a processor accepts what it also executes, best first", () => {
  const accepted = (platform: Platform): string[] => acceptedPlatforms(platform).map(formatPlatform);
  assert.deepEqual(accepted(linux("amd64")), ["linux/amd64", "linux/386"]);
  assert.deepEqual(accepted(linux("amd64", "v3")), ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]);
  assert.deepEqual(accepted(linux("arm64")), [
    "linux/arm64",
    "linux/arm/v8",
    "linux/arm/v7",
    "linux/arm/v6",
    "linux/arm/v5",
  ]);
  assert.deepEqual(accepted(linux("arm")), ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]);
  assert.deepEqual(accepted(linux("s390x")), ["linux/s390x"]);
});

const entry = (name: string, platform?: Platform): Descriptor => ({
  mediaType: MEDIA.ociManifest,
  digest: name,
  size: 1,
  ...(platform === undefined ? {} : { platform }),
});
const select = (platform: Platform, ...manifests: Descriptor[]): string | undefined =>
  selectManifest({ schemaVersion: 2, manifests }, platform)?.digest;

test("the manifest that suits best is chosen, whatever the order", () => {
  const all = [
    entry("386", linux("386")),
    entry("v5", linux("arm", "v5")),
    entry("v7", linux("arm", "v7")),
    entry("amd64", linux("amd64")),
    entry("arm64", linux("arm64", "v8")),
  ];
  assert.equal(select(linux("amd64"), ...all), "amd64");
  assert.equal(select(linux("arm64"), ...all), "arm64");
  assert.equal(select(linux("arm", "v6"), ...all), "v5");
  assert.equal(select(linux("arm", "v7"), ...all), "v7");
  assert.equal(select(linux("386"), ...all), "386");
  assert.equal(select(linux("s390x"), ...all), undefined);
});

test("attestations are never chosen, and a manifest without a platform only as a last resort", () => {
  const attestation = entry("attestation", { os: "unknown", architecture: "unknown" });
  assert.equal(select(linux("amd64"), attestation), undefined);
  assert.equal(select(linux("amd64"), entry("plain"), attestation), "plain");
  assert.equal(select(linux("amd64"), entry("plain"), entry("amd64", linux("amd64"))), "amd64");
  assert.equal(select(linux("amd64"), { ...entry("artifact", linux("amd64")), mediaType: "application/x" }), undefined);
});

test("layer types are told from others", () => {
  for (const type of [
    MEDIA.ociLayer,
    MEDIA.ociLayerGzip,
    MEDIA.ociLayerZstd,
    MEDIA.ociForeignLayerGzip,
    MEDIA.dockerLayerGzip,
    MEDIA.dockerForeignLayerGzip,
    MEDIA.dockerLayer,
  ])
    assert.ok(isLayerType(type), type);
  for (const type of [MEDIA.ociConfig, MEDIA.ociEmpty, "text/plain", MEDIA.ociManifest])
    assert.ok(!isLayerType(type), type);
  assert.ok(
    isForeignLayerType(MEDIA.dockerForeignLayerGzip) &&
      isForeignLayerType(MEDIA.ociForeignLayer) &&
      !isForeignLayerType(MEDIA.ociLayerGzip),
  );
});
