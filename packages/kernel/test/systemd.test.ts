/** systemd: names, properties, and the conversation with a manager (a stand-in; the real one is tried in the guest tests). */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { oci } from "@berth/spec";
import fc from "fast-check";
import {
  annotatedProperties,
  DBusError,
  FakeSystemd,
  resourceProperties,
  slicePath,
  startScope,
  stopScope,
  SystemdManager,
  systemdPlace,
  unitProperties,
  updateScope,
  type PropertyContext,
  type UnitProperty,
} from "../src/index.ts";
import { DBusReader, DBusWriter, firstType } from "../src/systemd/marshal.ts";
import { quotaPerSecond } from "../src/systemd/properties.ts";
import { hybridHost, v2Host } from "../src/testing/hosts.ts";

let directory: string;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), "berth-systemd-"));
});
after(async () => {
  await rm(directory, { recursive: true });
});

test("slice:prefix:name is a unit and a path", () => {
  assert.deepEqual(systemdPlace("machine.slice:libpod:c1", "id"), {
    slice: "machine.slice",
    unit: "libpod-c1.scope",
    path: "/machine.slice/libpod-c1.scope",
  });
  assert.equal(systemdPlace("", "c1").path, "/system.slice/runc-c1.scope");
  assert.equal(systemdPlace("", "c1", true).slice, "user.slice");
  assert.equal(systemdPlace("::c1", "c1").unit, "c1.scope");
  assert.equal(
    systemdPlace("kubepods-burstable-pod1.slice:cri-containerd:c1", "id").path,
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-c1.scope",
  );
  assert.equal(systemdPlace("a.slice::a-b.slice", "id").unit, "a-b.slice");
  assert.equal(slicePath("-.slice"), "");
  for (const wrong of [
    "/kubepods/pod1",
    "a:b",
    "a.slice:x:",
    "nope:x:y",
    "a--b.slice:x:y",
    "-a.slice:x:y",
    "a.slice:x:y/z",
  ])
    assert.throws(() => systemdPlace(wrong, "id"), Error, wrong);
});

test("values survive the wire", () => {
  const signature = "ybnqiuxtdsoga(sv)aya{sv}(i(bs))";
  const values = [
    255,
    true,
    -3,
    65_535,
    -70_000,
    4_000_000_000,
    -(1n << 62n),
    (1n << 64n) - 1n,
    0.5,
    "tëxt",
    "/a/b",
    "a{sv}",
    [["one", { signature: "as", value: ["a", "b"] }]],
    Uint8Array.from([1, 2, 3]),
    [["k", { signature: "u", value: 7 }]],
    [5, [false, "in"]],
  ] as const;
  const writer = new DBusWriter();
  writer.values(signature, values);
  assert.deepEqual(new DBusReader(Buffer.from(writer.take())).values(signature), values);
  assert.deepEqual(firstType("a{s(ii)}uu"), ["a{s(ii)}", "uu"]);
  for (const wrong of ["a", "(s", "z", "a{"]) assert.throws(() => firstType(wrong), DBusError, wrong);
});

test("whatever comes is a value or a DBusError", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 64 }),
      fc.constantFrom("v", "a(sv)", "as", "(ua{sv})"),
      (bytes, signature) => {
        try {
          new DBusReader(Buffer.from(bytes)).values(signature);
        } catch (error) {
          assert.ok(error instanceof DBusError, String(error));
        }
      },
    ),
  );
});

const v2: PropertyContext = {
  version: "v2",
  systemd: 252,
  devices: "Character devices:\n 136 pts\n\nBlock devices:\n  7 loop\n",
};
const v1: PropertyContext = { ...v2, version: "v1" };
const plain = (properties: readonly UnitProperty[]) =>
  Object.fromEntries(properties.map(([name, { value }]) => [name, value instanceof Uint8Array ? [...value] : value]));

test("resources as properties, v2", () => {
  const resources: oci.LinuxResources = {
    memory: { limit: 100, reservation: 50, swap: 150 },
    cpu: { shares: 1024, quota: 25_001, period: 50_000, cpus: "0,9", mems: "0" },
    pids: { limit: -1 },
    blockIO: { weight: 500 },
    devices: [
      { allow: false },
      { allow: true, type: "c", major: 1, minor: 3, access: "rw" },
      { allow: true, type: "c", major: 136, access: "rwm" },
      { allow: true, type: "b", access: "m" },
      { allow: true, type: "c", major: 999, access: "r" },
    ],
    unified: { "memory.high": "80", "io.latency": "x", "cpu.max": "max 100000" },
  };
  assert.deepEqual(plain(resourceProperties(resources, v2)), {
    DevicePolicy: "strict",
    DeviceAllow: [
      ["/dev/char/1:3", "rwm"],
      ["char-pts", "rwm"],
      ["block-*", "m"],
      ["char-*", "m"],
      ...[5, 7, 8, 9].map((minor) => [`/dev/char/1:${minor}`, "rwm"]),
      ["/dev/char/5:0", "rwm"],
      ["/dev/char/5:2", "rwm"],
    ],
    MemoryMax: 100n,
    MemoryLow: 50n,
    MemorySwapMax: 50n,
    CPUWeight: 100n,
    CPUQuotaPeriodUSec: 100_000n,
    CPUQuotaPerSecUSec: (1n << 64n) - 1n,
    AllowedCPUs: [1, 2],
    AllowedMemoryNodes: [1],
    TasksMax: (1n << 64n) - 1n,
    IOWeight: 4950n,
    MemoryHigh: 80n,
  });
  assert.throws(() => resourceProperties({ memory: { limit: 10, swap: 5 } }, v2), /memory\.swap/);
});

test("resources as properties: v1, and what an older systemd does not know", () => {
  const resources: oci.LinuxResources = {
    memory: { limit: 100, swap: 150 },
    cpu: { shares: 512, quota: 5000, cpus: "0", idle: 1 },
    pids: { limit: 0 },
  };
  assert.deepEqual(plain(resourceProperties(resources, { ...v1, systemd: 241 })), {
    MemoryLimit: 100n,
    CPUShares: 512n,
    CPUQuotaPerSecUSec: 50_000n,
    TasksMax: 1n,
  });
  assert.deepEqual(plain(resourceProperties({ cpu: { cpus: "0", idle: 1 } }, { ...v2, systemd: 243 })), {});
  assert.deepEqual(plain(resourceProperties({ cpu: { idle: 1, shares: 2 } }, v2)), { CPUWeight: 0n });
});

test("a quota is rounded up to systemd's step", () => {
  assert.equal(quotaPerSecond(10_000, 100_000), 100_000n);
  assert.equal(quotaPerSecond(10_001, 100_000), 110_000n);
  assert.equal(quotaPerSecond(undefined, 100_000), (1n << 64n) - 1n);
  assert.equal(quotaPerSecond(-1, 100_000), (1n << 64n) - 1n);
});

test("annotations as properties", () => {
  const of = (name: string, value: string) => annotatedProperties({ [`org.systemd.property.${name}`]: value })[0];
  assert.deepEqual(of("CollectMode", "'inactive-or-failed'"), [
    "CollectMode",
    { signature: "s", value: "inactive-or-failed" },
  ]);
  assert.deepEqual(of("TimeoutStopUSec", "uint64 5"), ["TimeoutStopUSec", { signature: "t", value: 5n }]);
  assert.deepEqual(of("TimeoutStopSec", "1.5"), ["TimeoutStopUSec", { signature: "t", value: 1_500_000n }]);
  assert.deepEqual(of("RefuseManualStop", "true"), ["RefuseManualStop", { signature: "b", value: true }]);
  assert.deepEqual(of("After", "['a.service', \"b\\'s\"]"), [
    "After",
    { signature: "as", value: ["a.service", "b's"] },
  ]);
  assert.deepEqual(of("Nice", "-5"), ["Nice", { signature: "i", value: -5 }]);
  assert.deepEqual(annotatedProperties({ "org.example": "x" }), []);
  for (const wrong of ["", "[", "'open", "maybe 5", "nothing"])
    assert.throws(() => of("Name", wrong), /org\.systemd\.property\.Name/);
  assert.throws(() => of("N1", "true"), /is no property/);
});

const connect = async (fake: FakeSystemd, path: string) => {
  void fake;
  return await SystemdManager.connect(`unix:path=${path}`);
};

test("a scope: started with its processes and limits, changed, stopped", async () => {
  const path = join(directory, "bus");
  await using fake = await FakeSystemd.listen(path);
  const manager = await connect(fake, path);
  const place = systemdPlace("test.slice:berth:c1", "c1");
  await startScope(manager, {
    place,
    pids: [4242],
    host: v2Host(),
    resources: { memory: { limit: 100 } },
    annotations: { "org.systemd.property.CollectMode": "'inactive'" },
  });
  const [started] = fake.bodies("StartTransientUnit");
  assert.deepEqual([started?.[0], started?.[1], started?.[3]], ["berth-c1.scope", "fail", []]);
  const properties = Object.fromEntries(
    ((started?.[2] ?? []) as [string, { value: unknown }][]).map(([name, { value }]) => [name, value]),
  );
  assert.deepEqual(properties, {
    Description: "berth container berth-c1",
    Slice: "test.slice",
    Delegate: true,
    PIDs: [4242],
    MemoryAccounting: true,
    CPUAccounting: true,
    IOAccounting: true,
    TasksAccounting: true,
    DefaultDependencies: false,
    MemoryMax: 100n,
    CollectMode: "inactive",
  });
  await updateScope(manager, place, { pids: { limit: 7 } }, v2Host());
  assert.deepEqual(fake.bodies("SetUnitProperties")[0], [
    "berth-c1.scope",
    true,
    [["TasksMax", { signature: "t", value: 7n }]],
  ]);
  await stopScope(manager, place);
  assert.deepEqual(fake.bodies("StopUnit")[0], ["berth-c1.scope", "replace"]);
  assert.deepEqual(
    fake.bodies("AddMatch").map(([rule]) => /member='(\w+)'/.exec(rule as string)?.[1]),
    ["JobRemoved", "NameOwnerChanged"],
  );
  manager.close();
});

test("a unit that failed before is reset; one that does not start says how", async () => {
  const path = join(directory, "bus2");
  await using fake = await FakeSystemd.listen(path);
  const manager = await connect(fake, path);
  const start = (unit: string) => manager.start({ name: unit, properties: unitProperties(unit, "a.slice", [1], v1) });
  fake.answers = { StartTransientUnit: [{ error: "org.freedesktop.systemd1.UnitExists" }] };
  await start("x.scope");
  assert.deepEqual(fake.bodies("ResetFailedUnit")[0], ["x.scope"]);
  fake.answers = { StartTransientUnit: [{ result: "failed" }] };
  await assert.rejects(start("y.scope"), /unit y\.scope was not started: failed/);
  const exists = { error: "org.freedesktop.systemd1.UnitExists" };
  fake.answers = { StartTransientUnit: [exists, exists] };
  await assert.rejects(start("z.scope"), /StartTransientUnit: org\.freedesktop\.systemd1\.UnitExists/);
  fake.answers = { StopUnit: [{ error: "org.freedesktop.systemd1.NoSuchUnit" }] };
  await manager.stop("gone.scope");
  fake.version = "devel";
  await assert.rejects(manager.version(), /has no number/);
  const pending = manager.version();
  manager.close();
  await assert.rejects(pending, /Get: the connection was closed/);
});

test("where there is no systemd, it is said", async () => {
  await assert.rejects(
    SystemdManager.connect(`unix:path=${directory}/nobody`),
    /cannot reach systemd at .*nobody.*is it this/,
  );
  await assert.rejects(SystemdManager.connect("tcp:host=x"), /names no unix socket/);
});

test("on a hybrid host a unit has v1's properties", async () => {
  const path = join(directory, "bus3");
  await using fake = await FakeSystemd.listen(path);
  const manager = await connect(fake, path);
  await startScope(manager, { place: systemdPlace("", "c"), pids: [1], host: hybridHost() });
  const names = ((fake.bodies("StartTransientUnit")[0]?.[2] ?? []) as [string][]).map(([name]) => name);
  assert.ok(names.includes("BlockIOAccounting") && !names.includes("IOAccounting"));
  manager.close();
});
