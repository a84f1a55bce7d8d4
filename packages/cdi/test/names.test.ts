import assert from "node:assert/strict";
import { test } from "node:test";
import { annotationKey, annotationValue, devicesOfAnnotations } from "../src/annotations.ts";
import { isQualifiedName, parseQualifiedName, splitDevice } from "../src/names.ts";

test("qualified names: the grammar of each part", () => {
  for (const name of ["v/c=d", "vendor.com/class=0", "nvidia.com/gpu=1:0", "a-b_c.d/e.f=GPU-1.2:3_4", "V1/C1=a"])
    assert.ok(isQualifiedName(name), name);
  for (const name of [
    "",
    "/dev/sda",
    "/dev/a=b",
    "vendor.com/class",
    "vendor.com=dev",
    "vendor.com/class=",
    "=dev",
    "/class=dev",
    "vendor/=dev",
    "1vendor/class=dev",
    "vendor/1class=dev",
    "vendor-/class=dev",
    "vendor/class.=dev",
    "vendor/class=-dev",
    "vendor/class=dev:",
    "vendor/cl ass=dev",
    "vendor/a/b=dev",
    "vendor/class=d/e",
    "vendor/class=d=e",
    "vendör/class=dev",
  ])
    assert.ok(!isQualifiedName(name), name);
});

test("a name that is not qualified says what is missing or wrong", () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ["/dev/sda", /unqualified device "\/dev\/sda", missing vendor/],
    ["1v/c=d", /invalid vendor\. "1v", should start with letter/],
    ["v/c-=d", /invalid class\. "c-", should end with a letter or digit/],
    ["v/c=d+e", /invalid character '\+' in device name "d\+e"/],
  ];
  for (const [name, message] of cases) assert.throws(() => parseQualifiedName(name), message);
  assert.deepEqual(splitDevice("/dev/a=b"), { vendor: "", class: "", name: "/dev/a=b" });
});

test("annotations: keys within Kubernetes's limits, values of qualified names only", () => {
  assert.equal(annotationKey("vendor.device-type", "dev/1"), "cdi.k8s.io/vendor.device-type_dev_1");
  assert.equal(annotationKey("a", "x".repeat(61)).length, "cdi.k8s.io/".length + 63);
  assert.throws(() => annotationKey("a", "x".repeat(62)), /too long/);
  assert.throws(() => annotationKey("", "a"), /invalid plugin name, empty/);
  assert.throws(() => annotationKey("a", ""), /invalid deviceID, empty/);
  assert.throws(() => annotationKey("-a", "b"), /invalid character '-'/);
  assert.throws(() => annotationKey("a", "b:c"), /invalid character ':'/);
  assert.equal(annotationValue(["v/c=a", "v/c=b"]), "v/c=a,v/c=b");
  assert.throws(() => annotationValue(["v/c=a", "/dev/b"]), /unqualified device/);
});

test("annotations: all devices of all keys, or an error that names the key", () => {
  const annotations = { "cdi.k8s.io/b": "v/c=3", "other.io/x": "no", "cdi.k8s.io/a": "v/c=2,v/c=1" };
  assert.deepEqual(devicesOfAnnotations(annotations), ["v/c=2", "v/c=1", "v/c=3"]);
  assert.throws(
    () => devicesOfAnnotations({ ...annotations, "cdi.k8s.io/c": "v/c=1,bad" }),
    /annotation "cdi\.k8s\.io\/c": invalid CDI device name "bad"/,
  );
  assert.deepEqual(devicesOfAnnotations({ "my.io/gpus": "v/c=1" }, ["my.io/"]), ["v/c=1"]);
});
