/** Device rules as a program: what it answers, by an interpreter of the few instructions that it uses. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { cgroupCreation } from "../src/index.ts";
import { deviceAccess, deviceProgram, type DeviceAccess, type DeviceRule } from "../src/cgroups/device-program.ts";
import { v2Host } from "../src/testing/hosts.ts";

interface Device {
  readonly type: "b" | "c";
  readonly major: number;
  readonly minor: number;
  /** Bits: 1 mknod, 2 read, 4 write. */
  readonly access: number;
}

/** 1: allowed. Throws on any instruction that the kernel would not take either. */
function runProgram(program: Uint8Array, device: Device): number {
  const code = Buffer.from(program);
  const context = Buffer.alloc(12);
  context.writeUInt32LE((device.type === "b" ? 1 : 2) | (device.access << 16), 0);
  context.writeUInt32LE(device.major, 4);
  context.writeUInt32LE(device.minor, 8);
  const registers: number[] = Array.from({ length: 11 }, () => Number.NaN);
  for (let at = 0; at < code.length; at += 8) {
    const operation = code.readUInt8(at);
    const [to, from] = [code.readUInt8(at + 1) & 15, code.readUInt8(at + 1) >> 4];
    const [offset, number] = [code.readInt16LE(at + 2), code.readInt32LE(at + 4)];
    const value = registers[to] ?? Number.NaN;
    const other = registers[from] ?? Number.NaN;
    if (operation === 0x61) registers[to] = context.readUInt32LE(offset);
    else if (operation === 0xbf) registers[to] = other;
    else if (operation === 0xb7) registers[to] = number;
    else if (operation === 0x57) registers[to] = value & number;
    else if (operation === 0x77) registers[to] = value >>> number;
    else if (operation === 0x15) at += value === number ? offset * 8 : 0;
    else if (operation === 0x55) at += value !== number ? offset * 8 : 0;
    else if (operation === 0x5d) at += value !== other ? offset * 8 : 0;
    else if (operation === 0x95) return registers[0] ?? Number.NaN;
    else throw new Error(`operation ${operation.toString(16)}`);
  }
  throw new Error("the program does not end");
}

function expected({ allow, exceptions }: DeviceAccess, device: Device): number {
  const matching = exceptions.filter(
    ({ type, major, minor }) =>
      type === device.type &&
      (major === undefined || major === device.major) &&
      (minor === undefined || minor === device.minor),
  );
  const hit = allow
    ? matching.some(({ access }) => (access & device.access) !== 0)
    : matching.some(({ access }) => (access & device.access) === device.access);
  return Number(hit ? !allow : allow);
}

test("the program answers as the rules do", () => {
  const number = fc.option(fc.integer({ min: 0, max: 3 }), { nil: undefined });
  const rule: fc.Arbitrary<DeviceRule> = fc.record({
    allow: fc.boolean(),
    type: fc.constantFrom("a", "b", "c"),
    major: number,
    minor: number,
    access: fc.constantFrom("r", "w", "m", "rw", "rwm", "wm"),
  });
  const device: fc.Arbitrary<Device> = fc.record({
    type: fc.constantFrom("b", "c"),
    major: fc.integer({ min: 0, max: 3 }),
    minor: fc.integer({ min: 0, max: 3 }),
    access: fc.integer({ min: 1, max: 7 }),
  });
  fc.assert(
    fc.property(fc.array(rule, { maxLength: 8 }), fc.array(device, { minLength: 1 }), (rules, devices) => {
      const access = deviceAccess(rules);
      const program = deviceProgram(access);
      for (const one of devices) assert.equal(runProgram(program, one), expected(access, one), JSON.stringify(one));
    }),
  );
});

test("rules: nothing at first, 'a' begins anew, access of one device adds up and is taken away", () => {
  const base = { major: 1, minor: 3 };
  assert.deepEqual(deviceAccess([]), { allow: false, exceptions: [] });
  assert.deepEqual(
    deviceAccess([
      { ...base, allow: true, type: "c", access: "r" },
      { ...base, allow: true, type: "c", access: "wm" },
      { ...base, allow: false, type: "c", access: "m" },
    ]).exceptions,
    [{ type: "c", major: 1, minor: 3, access: 6 }],
  );
  assert.deepEqual(
    deviceAccess([
      { ...base, allow: true, type: "c", access: "r" },
      { allow: true, type: "a", major: undefined, minor: undefined, access: "rwm" },
    ]),
    { allow: true, exceptions: [] },
  );
});

test("a container without rules has no program; one that allows all may do without", () => {
  const programs = (devices: Parameters<typeof cgroupCreation>[2]) =>
    cgroupCreation("/p/c", v2Host(), devices).orders.filter(({ order }) => order === "cgroup_devices");
  assert.equal(programs({}).length, 0);
  const [all] = programs({ devices: [{ allow: true, access: "rwm" }] });
  assert.ok(all?.order === "cgroup_devices");
  assert.equal(all.args.any, 1);
  const [none] = programs({ devices: [{ allow: false }] });
  assert.ok(none?.order === "cgroup_devices");
  assert.equal(none.args.any, 0);
  assert.throws(() => programs({ devices: [{ allow: true, type: "x" }] }), /devices\[0\]\.type/);
});
