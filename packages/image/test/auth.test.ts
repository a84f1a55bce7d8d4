import assert from "node:assert/strict";
import test from "node:test";
import { ImageError } from "../src/errors.ts";
import { detailOf, loginOf, mergeScopes, parseChallenges } from "../src/registry/auth.ts";
import { parseRetryAfter } from "../src/registry/retry.ts";

test("challenges: one, several in a line, quoting, names in any case", () => {
  const plain = (header: string): unknown =>
    parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);
  assert.deepEqual(
    plain('Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push"'),
    [
      [
        "bearer",
        { realm: "https://auth.example/token", service: "registry.example", scope: "repository:a/b:pull,push" },
      ],
    ],
  );
  assert.deepEqual(plain('BASIC Realm="x y"'), [["basic", { realm: "x y" }]]);
  assert.deepEqual(plain('Basic realm="a, b=\\"c\\"", Bearer realm=https://x , error=invalid_token'), [
    ["basic", { realm: 'a, b="c"' }],
    ["bearer", { realm: "https://x", error: "invalid_token" }],
  ]);
  assert.deepEqual(plain('Negotiate, Basic realm="r"'), [
    ["negotiate", {}],
    ["basic", { realm: "r" }],
  ]);
  assert.deepEqual(plain(""), []);
  assert.deepEqual(plain('="'), []);
});

test("credentials in both forms", () => {
  assert.deepEqual(loginOf({ username: "u", password: "p:q" }), { username: "u", password: "p:q" });
  assert.deepEqual(loginOf({ auth: Buffer.from("u:p:q").toString("base64") }), { username: "u", password: "p:q" });
  assert.equal(loginOf({}), undefined);
  assert.equal(loginOf({ identityToken: "t" }), undefined);
  assert.throws(
    () => loginOf({ auth: "bm9jb2xvbg==" }),
    (error) => error instanceof ImageError && error.code === "Unauthorized",
  );
});

test("Retry-After in seconds and as a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  assert.equal(parseRetryAfter("3", now), 3000);
  assert.equal(parseRetryAfter("Thu, 01 Jan 2026 00:00:05 GMT", now), 5000);
  assert.equal(parseRetryAfter("Wed, 31 Dec 2025 00:00:00 GMT", now), 0);
  assert.equal(parseRetryAfter("soon", now), undefined);
  assert.equal(parseRetryAfter(undefined, now), undefined);
});

test("what a registry's error says", () => {
  assert.equal(
    detailOf(Buffer.from('{"errors":[{"code":"DENIED","message":"requested access is denied"}]}')),
    ": requested access is denied",
  );
  assert.equal(
    detailOf(Buffer.from('{"details":"incorrect username or password"}')),
    ": incorrect username or password",
  );
  assert.equal(detailOf(Buffer.from("<html>")), "");
  assert.equal(detailOf(Buffer.from("null")), "");
});

test("scopes of several sources are asked for once", () => {
  assert.deepEqual(mergeScopes(["repository:a/b:pull", "repository:a/b:pull,push", "", "repository:c:5000/d:pull"]), [
    "repository:a/b:pull,push",
    "repository:c:5000/d:pull",
  ]);
  assert.deepEqual(mergeScopes(["aws"]), ["aws"]);
});
