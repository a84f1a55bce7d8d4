/** Orders that the finer points of the runtime specification need. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  readFileSync,
  rmdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { tmpdir } from "node:os";
import { test } from "node:test";
import type { Order } from "@berth/kernel";
import { ATTR, NEW, NO_SLOT, order, privateMounts, refuse, root, scratch, shell, succeed, carryOut } from "./bosun.ts";

const tmpfs = (slot: number): Order =>
  order("fs_mount", { slot, fstype: "tmpfs", source: "tmpfs", options: [], attrs: 0n, fdKeys: [], fdSlots: [] });

test("copy_up copies what is there, and follows and crosses nothing", async (t) => {
  const dir = scratch(t);
  const from = join(dir, "seed");
  mkdirSync(join(from, "sub"), { recursive: true });
  writeFileSync(join(from, "file"), "content", { mode: 0o640 });
  chownSync(join(from, "file"), 3, 4);
  symlinkSync("/etc/shadow", join(from, "link"));
  execFileSync("mkfifo", [join(from, "sub/fifo")]);
  mkdirSync(join(from, "mounted"));
  mkdirSync(join(dir, "target"));
  const look = `cd ${dir}/target; cat file; stat -c ' %a %u:%g' file; readlink link; stat -c %F sub/fifo; ls`;
  const outcome = await succeed([
    ...privateMounts,
    order("mount", { source: "t", target: join(from, "mounted"), fstype: "tmpfs", flags: 0n, data: "" }),
    root(0, dir),
    tmpfs(1),
    order("copy_up", { slot: 1, root: 0, path: "/seed" }),
    order("move_mount", { slot: 1, root: 0, target: "target", create: 0, strict: 0 }),
    shell(`(${look}) >&2`),
  ]);
  assert.equal(outcome.said, "content 640 3:4\n/etc/shadow\nfifo\nfile\nlink\nsub\n");
  await succeed([root(0, dir), tmpfs(1), order("copy_up", { slot: 1, root: 0, path: "/absent" })]);
  symlinkSync("/", join(dir, "out"));
  const inside = await succeed([root(0, from), tmpfs(1), order("copy_up", { slot: 1, root: 0, path: "/link" })]);
  assert.equal(inside.code, "", "a link is resolved inside, and leads to nothing there");
});

test("userns: a namespace with maps and nobody in it", async () => {
  const maps = { uidMap: "0 4000 10\n", gidMap: "0 5000 10\n" };
  const outcome = await succeed([
    order("userns", { slot: 0, ...maps }),
    order("setns", { slot: 0, type: NEW.user }),
    shell("cat /proc/self/uid_map /proc/self/gid_map | tr -s ' ' >&2"),
  ]);
  assert.equal(outcome.said, " 0 4000 10\n 0 5000 10\n");
  await refuse([order("userns", { slot: 0, uidMap: "nonsense", gidMap: "" })], "EINVAL", /^write \/proc\/\d+\/uid_map/);
});

test("move_mount refuses a target on a procfs unless it is told to take it", async (t) => {
  const dir = scratch(t);
  mkdirSync(join(dir, "proc"));
  symlinkSync("proc/self/attr", join(dir, "data"));
  const plan = (target: string, strict: number): Order[] => [
    ...privateMounts,
    order("mount", { source: "proc", target: join(dir, "proc"), fstype: "proc", flags: 0n, data: "" }),
    root(0, dir),
    tmpfs(1),
    order("move_mount", { slot: 1, root: 0, target, create: 0, strict }),
  ];
  await refuse(plan("proc/irq", 0), "EPERM", /^proc\/irq leads to a procfs/);
  await refuse(plan("data", 0), "EPERM", /^data leads to a procfs/);
  await succeed(plan("proc/irq", 2));
});

test("mempolicy, affinity and what they say of themselves", async () => {
  const mask = (bits: number) => Uint8Array.from([bits, 0, 0, 0, 0, 0, 0, 0]);
  const outcome = await succeed([
    order("mempolicy", { mode: 2, nodes: mask(1) }),
    order("affinity", { mask: mask(1) }),
    shell("head -n 1 /proc/self/numa_maps | cut -d' ' -f2 >&2; grep Cpus_allowed_list /proc/self/status >&2"),
  ]);
  assert.match(outcome.said, /^bind:0\nCpus_allowed_list:\t0\n$/);
  const all = await succeed([
    order("affinity", { mask: mask(1) }),
    order("affinity", { mask: new Uint8Array() }),
    shell("grep Cpus_allowed_list /proc/self/status >&2"),
  ]);
  assert.equal(all.said, /^Cpus_allowed_list:.*$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[0].concat("\n"));
  await refuse([order("mempolicy", { mode: 99, nodes: new Uint8Array() })], "EINVAL", /^set_mempolicy 0x63/);
  await refuse([order("mempolicy", { mode: 2, nodes: new Uint8Array(1000) })], "EINVAL", /mask of 1000 bytes/);
  await refuse([order("affinity", { mask: new Uint8Array(2000) })], "EINVAL", /mask of 2000 bytes/);
});

test("home: the sixth field of the user's line, or /", async (t) => {
  const dir = scratch(t);
  const look = async (uid: number, env: string[] = []) => {
    const exec = order("exec", { argv: ["/bin/sh", "-c", "echo $HOME >&2"], env: ["PATH=/bin", ...env], keep: 0 });
    return (await succeed([root(0, dir), order("home", { root: 0, uid }), exec])).said.trim();
  };
  assert.equal(await look(0), "/", "no file");
  mkdirSync(join(dir, "etc"));
  const long = `/${"x".repeat(300)}`;
  writeFileSync(
    join(dir, "etc/passwd"),
    `# comment\nroot:x:0:0::/root:/bin/sh\nshort:x:1\nx:x:12:0::/twelve\ny:x:1:0:::/bin/sh\nz:x:5:0::${long}:/bin/sh\nn:x:012:0::/octal:`,
  );
  assert.equal(await look(0), "/root");
  assert.equal(await look(12), "/twelve", "no shell behind it");
  assert.equal(await look(1), "/", "an empty one");
  assert.equal(await look(5), "/", "one that is too long");
  assert.equal(await look(7), "/", "nobody");
  assert.equal(await look(0, ["HOME=/given"]), "/given");
});

test("check_below and chown", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "current"), "1000\n");
  await succeed([order("check_below", { path: join(dir, "current"), limit: 1000n })]);
  await refuse([order("check_below", { path: join(dir, "current"), limit: 999n })], "EBUSY", /is 1000, above .* 999/);
  symlinkSync("current", join(dir, "link"));
  await succeed([order("chown", { directory: dir, files: ["", "link", "absent"], uid: 7, gid: 0xffffffff })]);
  assert.deepEqual([statSync(dir).uid, statSync(join(dir, "current")).uid], [7, 0], "never through a link");
  await refuse([order("chown", { directory: join(dir, "no"), files: [], uid: 1, gid: 1 })], "ENOENT", /^open .*\/no$/);
});

/** Pins of network namespaces; unpinned before their directory is removed. */
async function withPins(count: number, body: (pins: readonly string[]) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "bosun-pins-"));
  const pins = Array.from({ length: count }, (_, index) => join(dir, String(index)));
  try {
    await body(pins);
  } finally {
    await succeed(pins.map((path) => order("unpin", { path })));
    rmSync(dir, { recursive: true });
  }
}

const pinNet = (path: string) => order("pin_ns", { name: "net", path });
const open = (slot: number, path: string) => order("open", { slot, path, flags: 0n });

test("check_other_ns knows its own from another", () =>
  withPins(1, async ([pin = ""]) => {
    await succeed([order("unshare", { flags: NEW.net }), pinNet(pin)]);
    const check = (path: string) => [open(0, path), order("check_other_ns", { slot: 0, name: "net" })];
    await succeed(check(pin));
    await refuse(check("/proc/self/ns/net"), "EPERM", /^the net namespace to join is the host's own/);
    await refuse(
      [root(0, "/"), order("check_other_ns", { slot: 0, name: "../x" })],
      "EINVAL",
      /no namespace is called/,
    );
  }));

/** A pair of interfaces in a network namespace of its own, pinned: an interface dies with the other end's namespace. */
async function makePair(pin: string): Promise<void> {
  const script =
    "ip link add va type veth peer name vb && ip addr add 198.51.100.1/24 dev va && ip addr add 2001:db8::1/64 dev va";
  const hook = order("hook", {
    path: "/bin/sh",
    argv: ["sh", "-c", script],
    env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
    inheritEnv: 0,
    timeoutMs: 10_000,
    state: [""],
  });
  await succeed([order("unshare", { flags: NEW.net }), hook, pinNet(pin)]);
}

const clone = (flags: bigint) =>
  order("clone", { flags, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 });

test("move_link: into a namespace that is there, and into the one that clone makes", () =>
  withPins(3, async ([one = "", other = "", target = ""]) => {
    const link = (nsSlot: number, name = "va", newName = "inner") => order("move_link", { name, newName, nsSlot });
    const enter = (pin: string) => [open(5, pin), order("setns", { slot: 5, type: NEW.net })];
    const look = shell(
      "ip -o addr show dev inner | awk '{print $4}' >&2; ip -o link show dev inner | grep -o '[<,]UP' >&2",
    );
    const whole = /198\.51\.100\.1\/24\n(?:fe80.*\n)?2001:db8::1\/64\n[\s\S]*[<,]UP/;
    await makePair(one);
    await makePair(other);
    await succeed([order("unshare", { flags: NEW.net }), pinNet(target)]);
    await refuse([...enter(one), link(NO_SLOT, "nope"), clone(NEW.net)], "ENODEV", /^interface nope/, 2);
    await refuse([...enter(one), open(0, target), link(0, "va", "x".repeat(16))], "ENAMETOOLONG", /interface va/);
    assert.match((await succeed([...enter(one), open(0, target), link(0), ...enter(target), look])).said, whole);
    assert.match(
      (await succeed([...enter(other), link(NO_SLOT), clone(NEW.net), order("park", {}), look])).said,
      whole,
    );
  }));

test("cgroup_devices: attached, replaced, and refused by the verifier", async (t) => {
  const mountpoint = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].find((path) =>
    existsSync(join(path, "cgroup.procs")),
  );
  if (mountpoint === undefined || !existsSync(join(mountpoint, "cgroup.controllers")))
    return t.skip("no cgroup v2 here");
  const path = join(mountpoint, `bosun-devices-${process.pid}`);
  mkdirSync(path);
  t.after(() => rmdirSync(path));
  const program = (verdict: number) => Buffer.from(`b70000000${verdict}0000009500000000000000`, "hex");
  const attach = (verdict: number) => order("cgroup_devices", { path, program: program(verdict), any: 0 });
  const openZero = (...orders: Order[]) =>
    carryOut([
      ...orders,
      order("open", { slot: 0, path, flags: 0n }),
      order("clone", { flags: 0n, cgroupSlot: 0, uidMap: "", gidMap: "", denySetgroups: 0 }),
      order("park", {}),
      order("open", { slot: 1, path: "/dev/zero", flags: 0n }),
      shell("true"),
    ]);
  assert.deepEqual([(await openZero(attach(1))).code, (await openZero(attach(0))).code], ["", "EPERM"]);
  assert.equal((await openZero(attach(1))).code, "", "the one that forbade is gone");
  const broken = order("cgroup_devices", { path, program: Buffer.alloc(8, 0xff), any: 0 });
  await refuse([broken], "EINVAL", /^bpf load of 1 instructions/);
  await succeed([order("cgroup_devices", { path, program: Buffer.alloc(8, 0xff), any: 1 })]);
  await refuse(
    [order("cgroup_devices", { path, program: new Uint8Array(), any: 1 })],
    "EINVAL",
    /a program of 0 bytes/,
  );
});

test("move_root: over /, with the host's proc and sysfs out of reach", async (t) => {
  const dir = scratch(t);
  for (const name of ["bin", "proc"]) mkdirSync(join(dir, name));
  execFileSync("cp", ["/bin/busybox", join(dir, "bin/sh")]);
  const outcome = await succeed([
    order("open_tree", { slot: 0, path: dir, recursive: 0 }),
    order("enter_empty_mounts", {}),
    order("unshare", { flags: NEW.mnt }),
    order("attach_root", { slot: 0, at: "/rootfs", root: 1 }),
    order("fs_mount", {
      slot: 2,
      fstype: "proc",
      source: "proc",
      options: [],
      attrs: ATTR.NOEXEC,
      fdKeys: [],
      fdSlots: [],
    }),
    order("move_mount", { slot: 2, root: 1, target: "proc", create: 0, strict: 2 }),
    order("move_root", { root: 1 }),
    order("exec", {
      argv: ["/bin/sh", "-c", "ls / >&2; cut -d' ' -f2,3 /proc/mounts >&2"],
      env: ["PATH=/bin"],
      keep: 0,
    }),
  ]);
  assert.match(outcome.said, /^bin\nproc\n/);
  assert.doesNotMatch(outcome.said, /sysfs/);
  assert.equal(outcome.said.match(/ proc$/gm)?.length, 1);
});
