/** Orders about a whole machine, as far as this one may be told: the rest is in tests/guest/bosun.test.ts. */
import assert from "node:assert/strict";
import { mkdirSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { carryOut, NO_SLOT, order, refuse, scratch, shell, succeed, text } from "./bosun.ts";

const clone = order("clone", { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 });
const link = (more: object = {}) =>
  order("set_link", { name: "", hardware: "", newName: "", mtu: 0, up: 1, timeoutMs: 0, ...more });
const route = (destination: string, more: object = {}) =>
  order("route", {
    destination,
    gateway: "",
    link: "",
    source: "",
    scope: 0,
    metric: 0,
    mtu: 0,
    onlink: 0,
    remove: 0,
    ...more,
  });

/** A network namespace with one end of a pair of interfaces that has a known hardware address. */
const own = [
  "unshare",
  "-n",
  "sh",
  "-c",
  'ip link add wire address 02:00:00:00:00:07 type veth peer name other && ip link set other up && exec "$@"',
  "sh",
];

test("files by their path, with a limit, and none", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "file"), "0123456789");
  const outcome = await succeed([
    order("read_file", { path: join(dir, "file"), max: 4 }),
    order("read_file", { path: join(dir, "file"), max: 100 }),
    order("read_file", { path: join(dir, "none"), max: 4 }),
    order("read_file", { path: "/proc/self/comm", max: 100 }),
  ]);
  assert.deepEqual(
    [0, 1, 2, 3].map((index) => text(outcome, index)),
    ["0123", "0123456789", undefined, "bosun\n"],
  );
  await refuse([order("read_file", { path: dir, max: 4 })], "EISDIR", /^read \//);
});

test("paths that match a pattern", async (t) => {
  const dir = scratch(t);
  for (const name of ["a1", "a2", "b1"]) mkdirSync(join(dir, name));
  const outcome = await succeed([
    order("find", { pattern: `${dir}/a*`, timeoutMs: 0 }),
    order("find", { pattern: `${dir}/c*`, timeoutMs: 0 }),
    order("find", { pattern: `${dir}/b*`, timeoutMs: 60_000 }),
  ]);
  assert.equal(text(outcome, 0), `${dir}/a1\0${dir}/a2\0`);
  assert.equal(text(outcome, 1), undefined);
  assert.equal(text(outcome, 2), `${dir}/b1\0`);
  await refuse([order("find", { pattern: `${dir}/c*`, timeoutMs: 20 })], "ETIMEDOUT", /^wait for \//);
});

test("a file system's size", async () => {
  const outcome = await succeed([order("file_system", { path: "/" })]);
  const bytes = Buffer.from(outcome.outputs.get(0) ?? []);
  const { blocks, files } = statfsSync("/", { bigint: true });
  assert.equal(bytes.length, 48);
  assert.deepEqual([bytes.readBigUInt64LE(8), bytes.readBigUInt64LE(32)], [blocks, files]);
  await refuse([order("file_system", { path: "/no/such" })], "ENOENT", /^statvfs \/no\/such/);
});

test("what only a machine of its own may be told is refused here by name", async (t) => {
  const file = join(scratch(t), "module.ko");
  writeFileSync(file, "no module");
  await refuse([order("power_off", {})], "EPERM", /^PID 1 is not bosun guest/);
  await refuse([order("load_module", { path: "/no/module.ko", parameters: "" })], "ENOENT", /^open \/no\/module\.ko/);
  const { code, detail } = await carryOut([order("load_module", { path: file, parameters: "" })]);
  assert.notEqual(code, "");
  assert.match(detail, /^finit_module \//);
  await refuse([order("reseed_rng", { data: new Uint8Array() })], "EINVAL", /seed of 0 bytes/);
  await refuse([order("reseed_rng", { data: new Uint8Array(257) })], "EINVAL", /seed of 257 bytes/);
  await refuse([order("set_clock", { time: 2n ** 64n - 1n })], "EINVAL", /^clock_settime/);
  const outcome = await succeed([order("online", { cpus: 0, memory: 0, movable: 0 })]);
  assert.deepEqual(Buffer.from(outcome.outputs.get(0) ?? []), Buffer.alloc(8));
});

test("the random number generator is given entropy", async () => {
  await succeed([order("reseed_rng", { data: Buffer.alloc(32, 7) })]);
});

test("an interface by its hardware address: name, MTU, addresses, routes, neighbours", async () => {
  const hardware = "02:00:00:00:00:07";
  const { code, said, detail } = await carryOut(
    [
      link({ name: "lo" }),
      link({ hardware, newName: "eth0", mtu: 1400, timeoutMs: 60_000 }),
      link({ hardware, newName: "eth0", mtu: 1400 }), // once more, which changes nothing
      order("address", { link: "eth0", address: "10.7.0.2/24", remove: 0 }),
      order("address", { link: "eth0", address: "10.7.0.2/24", remove: 0 }),
      order("address", { link: "eth0", address: "10.8.0.2/24", remove: 0 }),
      order("address", { link: "eth0", address: "10.8.0.2/24", remove: 1 }),
      order("address", { link: "eth0", address: "10.8.0.2/24", remove: 1 }),
      order("address", { link: "eth0", address: "fd07::2/64", remove: 0 }),
      order("neighbour", { link: "eth0", address: "10.7.0.1", hardware: "02:00:00:00:00:08", remove: 0 }),
      order("neighbour", { link: "eth0", address: "10.7.0.9", hardware: "02:00:00:00:00:09", remove: 0 }),
      order("neighbour", { link: "eth0", address: "10.7.0.9", hardware: "", remove: 1 }),
      route("0.0.0.0/0", { gateway: "10.7.0.1", link: "eth0" }),
      route("0.0.0.0/0", { gateway: "10.7.0.1", link: "eth0" }),
      route("10.9.0.0/16", { link: "eth0", source: "10.7.0.2", scope: 253, metric: 5, mtu: 1300 }),
      route("10.10.0.0/16", { gateway: "192.0.2.1", link: "eth0", onlink: 1 }),
      route("10.11.0.0/16", { gateway: "10.7.0.1" }),
      route("10.11.0.0/16", { remove: 1 }),
      route("10.11.0.0/16", { remove: 1 }),
      route("::/0", { gateway: "fd07::1", link: "eth0" }),
      clone,
      shell("ip -o link show eth0; ip -o -4 addr show eth0; ip -o -6 addr show eth0; ip route; ip -6 route; ip neigh"),
    ],
    { wrapper: own },
  );
  assert.equal(code, "", `${detail} ${said}`);
  const lines = said.split("\n").map((line) => line.replaceAll(/\s+/g, " ").trim());
  const has = (pattern: RegExp): void =>
    assert.ok(
      lines.some((line) => pattern.test(line)),
      `${String(pattern)} in\n${said}`,
    );
  has(/eth0@?\S*: <.*\bUP\b.*mtu 1400 /);
  has(/inet 10\.7\.0\.2\/24 scope global eth0/);
  has(/inet6 fd07::2\/64 scope global/);
  has(/^default via 10\.7\.0\.1 dev eth0/);
  has(/^10\.9\.0\.0\/16 dev eth0 .*scope link .*src 10\.7\.0\.2 metric 5 mtu 1300/);
  has(/^10\.10\.0\.0\/16 via 192\.0\.2\.1 dev eth0 .*onlink/);
  has(/^default via fd07::1 dev eth0/);
  has(/^10\.7\.0\.1 dev eth0 lladdr 02:00:00:00:00:08 PERMANENT/);
  assert.doesNotMatch(said, /10\.8\.0|10\.11\.0|10\.7\.0\.9/);
  assert.doesNotMatch(said, /inet6 fd07::2.*tentative/);
});

test("what cannot be set up in the network says which and why", async () => {
  const inside = { wrapper: own };
  const refusals: readonly (readonly [ReturnType<typeof order>, string, RegExp])[] = [
    [link({ name: "none" }), "ENODEV", /^interface none/],
    [link({ hardware: "02:00:00:00:00:99", timeoutMs: 20 }), "ETIMEDOUT", /^interface 02:/],
    [link({ hardware: "02:00:00" }), "EINVAL", /no hardware address/],
    [link({ hardware: "02:00:00:00:00:07:08" }), "EINVAL", /no hardware address/],
    [link({ name: "x".repeat(16) }), "ENAMETOOLONG", /^interface x/],
    [order("address", { link: "wire", address: "10.0.0.1/33", remove: 0 }), "EINVAL", /no IP address/],
    [order("address", { link: "wire", address: "10.0.0/8", remove: 0 }), "EINVAL", /no IP address/],
    [order("address", { link: "wire", address: "10.0.0.1/", remove: 0 }), "EINVAL", /no IP address/],
    [order("address", { link: "none", address: "10.0.0.1/8", remove: 0 }), "ENODEV", /^interface none/],
    [route("10.0.0.0/8", { gateway: "fd00::1" }), "EINVAL", /two families/],
    [route("10.0.0.0/8", { gateway: "10.0.0.1" }), "ENETUNREACH", /^add route to 10\.0\.0\.0\/8 by 10\.0\.0\.1/],
    [
      order("neighbour", { link: "wire", address: "10.0.0.1", hardware: "?", remove: 0 }),
      "EINVAL",
      /no hardware address/,
    ],
  ];
  for (const [refused, code, detail] of refusals) {
    const outcome = await carryOut([refused], inside);
    assert.equal(outcome.code, code, `${JSON.stringify(refused.args)}: ${outcome.detail}`);
    assert.match(outcome.detail, detail);
  }
});
