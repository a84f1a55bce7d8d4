import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import {
  familiarReference,
  formatReference,
  InvalidReference,
  parseReference,
  repositoryOf,
  withDefaultTag,
} from "../src/reference.ts";

const HEX = "e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f";
const DIGEST = `sha256:${HEX}`;

const NORMALISED: readonly (readonly [text: string, full: string, familiar: string])[] = [
  ["busybox", "docker.io/library/busybox", "busybox"],
  ["busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"],
  ["library/busybox", "docker.io/library/busybox", "busybox"],
  ["docker.io/busybox", "docker.io/library/busybox", "busybox"],
  ["docker.io/library/busybox:latest", "docker.io/library/busybox:latest", "busybox:latest"],
  ["index.docker.io/busybox", "docker.io/library/busybox", "busybox"],
  ["index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"],
  ["user/app", "docker.io/user/app", "user/app"],
  ["a/b/c/d", "docker.io/a/b/c/d", "a/b/c/d"],
  ["library/a/b", "docker.io/library/a/b", "library/a/b"],
  ["localhost/app", "localhost/app", "localhost/app"],
  ["localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"],
  ["registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"],
  ["127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b"],
  ["[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"],
  ["[fc00::1]/app:x", "[fc00::1]/app:x", "[fc00::1]/app:x"],
  ["Registry/app", "Registry/app", "Registry/app"],
  ["a_b/c__d/e---f/g.h", "docker.io/a_b/c__d/e---f/g.h", "a_b/c__d/e---f/g.h"],
  [`busybox@${DIGEST}`, `docker.io/library/busybox@${DIGEST}`, `busybox@${DIGEST}`],
  [`busybox:1@${DIGEST}`, `docker.io/library/busybox:1@${DIGEST}`, `busybox:1@${DIGEST}`],
  [`host:80/a@${DIGEST}`, `host:80/a@${DIGEST}`, `host:80/a@${DIGEST}`],
  ["docker.io/foo.bar/baz", "docker.io/foo.bar/baz", "docker.io/foo.bar/baz"],
  ["docker.io/localhost/baz", "docker.io/localhost/baz", "docker.io/localhost/baz"],
  ["xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com"],
  ["busybox:_x", "docker.io/library/busybox:_x", "busybox:_x"],
];

for (const [text, full, familiar] of NORMALISED) {
  test(`${text} means ${full}`, () => {
    const reference = parseReference(text);
    assert.equal(formatReference(reference), full);
    assert.equal(familiarReference(reference), familiar);
  });
}

const REFUSED: readonly (readonly [text: string, why: RegExp])[] = [
  ["", /empty/],
  [HEX, /image id/],
  ["Busybox", /lower-case/],
  ["docker.io/Library/busybox", /lower-case/],
  ["a/B", /lower-case/],
  ["busybox:", /not a tag/],
  ["busybox:.x", /not a tag/],
  ["busybox:-x", /not a tag/],
  [`busybox:${"x".repeat(129)}`, /not a tag/],
  ["busybox:a b", /not a tag/],
  ["busybox@sha256:abc", /not a digest/],
  [`busybox@sha256:${HEX.toUpperCase()}`, /not a digest/],
  [`busybox@md5:${HEX.slice(0, 32)}`, /not a digest/],
  ["busybox@", /not a digest/],
  ["a//b", /component/],
  ["/a", /component/],
  ["a/", /component/],
  ["-a", /component/],
  ["a-", /component/],
  ["a._b", /component/],
  ["a___b", /component/],
  ["a..b", /component/],
  ["a/../b", /not a host name|component/],
  ["host:port/a", /host name/],
  ["-host.x/a", /host name/],
  ["[::1/a", /host name/],
  ["host:80:90/a", /host name/],
  ["https://host/a", /host name/],
  ["user@host/a", /not a digest/],
  ["a\u00e4b", /component/],
  ["a b", /component/],
  [`docker.io/${"a/".repeat(128)}a`, /longer than 255/],
];

for (const [text, why] of REFUSED) {
  test(`${JSON.stringify(text.slice(0, 60))} is refused`, () => {
    assert.throws(
      () => parseReference(text),
      (error) => error instanceof InvalidReference && why.test(error.message) && error.message.includes(text),
    );
  });
}

test("a name without tag and digest gets the tag latest, one with either does not", () => {
  assert.equal(formatReference(withDefaultTag(parseReference("busybox"))), "docker.io/library/busybox:latest");
  assert.equal(formatReference(withDefaultTag(parseReference("busybox:1"))), "docker.io/library/busybox:1");
  assert.equal(
    formatReference(withDefaultTag(parseReference(`busybox@${DIGEST}`))),
    `docker.io/library/busybox@${DIGEST}`,
  );
  assert.equal(repositoryOf(parseReference(`busybox:1@${DIGEST}`)), "docker.io/library/busybox");
});

const lower = fc.stringMatching(/^[a-z0-9]{1,8}$/);
const component = fc
  .tuple(lower, fc.array(fc.tuple(fc.constantFrom(".", "_", "__", "-", "--"), lower), { maxLength: 2 }))
  .map(([head, rest]) => head + rest.map(([dash, part]) => dash + part).join(""));
const path = fc.array(component, { minLength: 1, maxLength: 4 }).map((parts) => parts.join("/"));
/** Without a domain, a first component with a dot would be one. */
const needsDomain = (host: string, name: string): boolean => host === "" && /^[^/]*\.[^/]*\//.test(name);
const domain = fc.constantFrom(
  "",
  "docker.io/",
  "localhost/",
  "localhost:5000/",
  "example.com/",
  "Example/",
  "[::1]:80/",
  "10.0.0.1/",
);
const tag = fc.option(fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}$/), { nil: "" });
const text = fc
  .tuple(domain, path, tag, fc.boolean())
  .map(
    ([host, name, label, hashed]) =>
      (needsDomain(host, name) ? "docker.io/" : host) +
      name +
      (label === "" ? "" : `:${label}`) +
      (hashed ? `@${DIGEST}` : ""),
  );

test("property: full and familiar forms parse to the same reference", () => {
  fc.assert(
    fc.property(text, (given) => {
      const reference = parseReference(given);
      assert.deepEqual(parseReference(formatReference(reference)), reference);
      assert.deepEqual(parseReference(familiarReference(reference)), reference);
    }),
  );
});

test("property: any string is parsed or refused, never anything else", () => {
  const pieces = fc
    .array(
      fc.oneof(
        fc.constantFrom("/", ":", "@", ".", "-", "_", "[", "]", "docker.io", "sha256:", HEX, "latest"),
        fc.string({ maxLength: 4 }),
      ),
      { maxLength: 8 },
    )
    .map((parts) => parts.join(""));
  fc.assert(
    fc.property(fc.oneof(fc.string(), pieces), (given) => {
      try {
        const full = formatReference(parseReference(given));
        assert.equal(formatReference(parseReference(full)), full);
      } catch (error) {
        assert.ok(error instanceof InvalidReference, String(error));
      }
    }),
    { numRuns: 1000 },
  );
});
