import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { oci } from "@berth/spec";
import fc from "fast-check";
import {
  cgroupCreation,
  cgroupRemoval,
  cleanCgroupPath,
  oomCounter,
  orderWords,
  probeCgroups,
  updateResources,
  type HostFacts,
} from "../src/index.ts";
import { cpuWeight } from "../src/cgroups/controllers/cpu.ts";
import { pageSizeName } from "../src/cgroups/controllers/hugetlb.ts";
import { ioWeight } from "../src/cgroups/controllers/io.ts";
import { v1Hierarchies } from "../src/cgroups/hierarchy.ts";
import { parseMountInfo } from "../src/mountinfo.ts";
import { hybridHost, v2Host } from "../src/testing/hosts.ts";

/** "file: value" of each write, with the directory left out. */
function writes(resources: oci.LinuxResources, host: HostFacts): string[] {
  return updateResources("/pod/ctr", resources, host).orders.map((order) => {
    assert.equal(order.order, "write_file");
    const { path, data } = order.args as { path: string; data: Uint8Array };
    assert.ok(path.includes("/pod/ctr/"), path);
    return `${path.split("/").at(-1)}: ${Buffer.from(data).toString()}`;
  });
}

test("cpu.weight goes through the points that runtimes agreed on", () => {
  for (const [shares, weight] of [
    [1, 1],
    [2, 1],
    [3, 2],
    [1024, 100],
    [262_144, 10_000],
    [1_000_000, 10_000],
  ] as const)
    assert.equal(cpuWeight(shares), weight);
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 262_143 }), (shares) => {
      assert.ok(cpuWeight(shares) <= cpuWeight(shares + 1));
      assert.ok(cpuWeight(shares) >= 1 && cpuWeight(shares) <= 10_000);
    }),
  );
});

test("io.weight spans its range", () => {
  assert.deepEqual([10, 100, 1000].map(ioWeight), [1, 910, 10_000]);
});

test("v1: what each resource writes", () => {
  const host = hybridHost();
  assert.deepEqual(
    writes({ cpu: { shares: 512, period: 50_000, quota: 25_000, burst: 1000, cpus: "0-1", mems: "0" } }, host),
    [
      "cpu.shares: 512",
      "cpu.cfs_burst_us: 0",
      "cpu.cfs_quota_us: -1",
      "cpu.cfs_period_us: 50000",
      "cpu.cfs_quota_us: 25000",
      "cpu.cfs_burst_us: 1000",
      "cpuset.cpus: 0-1",
      "cpuset.mems: 0",
    ],
  );
  assert.deepEqual(writes({ memory: { limit: 1000, swap: 2000, reservation: 500, swappiness: 10 } }, host), [
    "memory.memsw.limit_in_bytes: -1",
    "memory.limit_in_bytes: 1000",
    "memory.memsw.limit_in_bytes: 2000",
    "memory.soft_limit_in_bytes: 500",
    "memory.swappiness: 10",
  ]);
  assert.deepEqual(writes({ pids: { limit: 0 } }, host), ["pids.max: 1"]);
  assert.deepEqual(writes({ pids: { limit: -1 } }, host), ["pids.max: max"]);
  const bfq = { ...host, cgroups: { ...host.cgroups, bfq: true } };
  assert.deepEqual(
    writes({ blockIO: { weight: 500, throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 1024 }] } }, bfq),
    ["blkio.bfq.weight: 500", "blkio.throttle.read_bps_device: 8:0 1024"],
  );
  assert.match(cgroupCreation("/p/c", host, { blockIO: { weight: 500 } }).warnings.join(), /needs the BFQ/);
});

test("v2: what each resource writes", () => {
  const host = v2Host();
  assert.deepEqual(writes({ cpu: { shares: 1024, quota: 25_000, cpus: "0" } }, host), [
    "cpu.weight: 100",
    "cpu.max: 25000 100000",
    "cpuset.cpus: 0",
  ]);
  assert.deepEqual(writes({ cpu: { quota: -1, period: 20_000 } }, host), ["cpu.max: max 20000"]);
  assert.deepEqual(writes({ memory: { limit: 1000, swap: 3000, reservation: 500 } }, host), [
    "memory.swap.max: 2000",
    "memory.max: 1000",
    "memory.low: 500",
  ]);
  assert.deepEqual(writes({ memory: { limit: 1000, swap: 1000 } }, host), ["memory.swap.max: 0", "memory.max: 1000"]);
  assert.deepEqual(writes({ memory: { limit: 1000, swap: -1 } }, host), ["memory.swap.max: max", "memory.max: 1000"]);
  assert.deepEqual(
    writes({ blockIO: { weight: 100, throttleWriteIOPSDevice: [{ major: 8, minor: 1, rate: 7 }] } }, host),
    ["io.weight: 910", "io.max: 8:1 wiops=7"],
  );
  assert.deepEqual(writes({ hugepageLimits: [{ pageSize: "2Mi", limit: 4096 }] }, host), [
    "hugetlb.2MB.max: 4096",
    "hugetlb.2MB.rsvd.max: 4096",
  ]);
  assert.deepEqual(writes({ rdma: { mlx5_1: { hcaHandles: 2, hcaObjects: 3 } } }, host), [
    "rdma.max: mlx5_1 hca_handle=2 hca_object=3",
  ]);
  assert.deepEqual(writes({ unified: { "memory.high": "900", "io.max": "8:0 rbps=1\n8:1 rbps=2" } }, host), [
    "memory.high: 900",
    "io.max: 8:0 rbps=1",
    "io.max: 8:1 rbps=2",
  ]);
});

test("impossible limits name their field", () => {
  const fails = (resources: oci.LinuxResources, host: HostFacts, message: RegExp) =>
    assert.throws(() => updateResources("/p/c", resources, host), message);
  fails({ memory: { limit: 2000, swap: 1000 } }, v2Host(), /^ResourceError: linux\.resources\.memory\.swap: 1000/);
  fails({ memory: { limit: 2000, swap: 1000 } }, hybridHost(), /memory\.swap/);
  fails({ memory: { swap: 1000 } }, v2Host(), /memory\.swap: 1000 needs a memory limit/);
  fails({ blockIO: { weight: 5 } }, v2Host(), /blockIO\.weight/);
  fails({ unified: { "memory.max": "1" } }, hybridHost(), /unified/);
  fails({ unified: { "../x.y": "1" } }, v2Host(), /unified/);
  fails({ unified: { "fancy.max": "1" } }, v2Host(), /no fancy controller/);
  fails({ devices: [{ allow: true, type: "c", access: "xa" }] }, hybridHost(), /devices\[0\]\.access/);
});

test("what the machine lacks is a warning, not a failure", () => {
  const { warnings, orders } = cgroupCreation(
    "/p/c",
    { ...hybridHost(), cgroups: { ...hybridHost().cgroups, swap: false } },
    { memory: { limit: 10, swap: 20 }, network: { classID: 7 }, rdma: { x: { hcaHandles: 1 } } },
  );
  assert.ok(!orders.some((order) => orderWords(order).includes("memsw")));
  assert.deepEqual(
    warnings.map((warning) => warning.split(":")[0]),
    ["linux.resources.memory.swap", "linux.resources.rdma", "linux.resources.network.classID"],
  );
});

test("v1 device rules, with what every container may do behind them", () => {
  const rules = writes(
    {
      devices: [
        { allow: false, access: "rwm" },
        { allow: true, type: "c", major: 195, minor: 0, access: "rw" },
      ],
    },
    hybridHost(),
  );
  assert.deepEqual(rules.slice(0, 5), [
    "devices.deny: a",
    "devices.allow: c 195:0 rw",
    "devices.allow: c *:* m",
    "devices.allow: b *:* m",
    "devices.allow: c 1:3 rwm",
  ]);
  assert.deepEqual(writes({ devices: [{ allow: true, access: "rwm" }] }, hybridHost()), ["devices.allow: a"]);
  assert.deepEqual(writes({ devices: [] }, hybridHost()), []);
});

test("hybrid: made everywhere, limits before joining, v1 joined, v2 opened for the clone", () => {
  const { orders, slot } = cgroupCreation("/pod/ctr", hybridHost(), { memory: { limit: 4096 } });
  const words = orders.map(orderWords);
  assert.equal(slot, 127);
  const made = words.filter((one) => one.startsWith("mkdir"));
  assert.deepEqual(
    made,
    ["cpu,cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "unified"].map(
      (name) => `mkdir /sys/fs/cgroup/${name}/pod/ctr`,
    ),
  );
  const limit = words.indexOf('write "4096" to /sys/fs/cgroup/memory/pod/ctr/memory.limit_in_bytes');
  const firstJoin = words.findIndex((one) => one.startsWith("join cgroup"));
  assert.ok(limit > 0 && firstJoin > limit);
  assert.equal(words.filter((one) => one.startsWith("join cgroup")).length, 8);
  assert.equal(words.at(-1), "open /sys/fs/cgroup/unified/pod/ctr");
  assert.deepEqual(
    words.filter((one) => one.startsWith("inherit")),
    [
      "inherit cpuset.cpus and cpuset.mems in /sys/fs/cgroup/cpuset/pod",
      "inherit cpuset.cpus and cpuset.mems in /sys/fs/cgroup/cpuset/pod/ctr",
    ],
  );
});

test("v2: controllers are passed down from the root, but not by the container's own cgroup", () => {
  const { orders } = cgroupCreation("/pod/ctr", v2Host());
  const words = orders.map(orderWords).filter((one) => one.includes("subtree_control"));
  assert.deepEqual(
    words,
    ["/sys/fs/cgroup", "/sys/fs/cgroup/pod"].map(
      (path) => `write "+cpuset +cpu +io +memory +hugetlb +pids +rdma +misc" to ${path}/cgroup.subtree_control`,
    ),
  );
});

test("without CLONE_INTO_CGROUP the stage moves itself", () => {
  const host = v2Host();
  const { orders, slot } = cgroupCreation("/a", { ...host, features: { ...host.features, cloneIntoCgroup: false } });
  assert.equal(slot, undefined);
  assert.equal(orders.map(orderWords).at(-1), 'write "0" to /sys/fs/cgroup/a/cgroup.procs');
});

test("a real-time period comes when the runtime of before is gone; a strange letter of a device rule is told and left out", () => {
  assert.deepEqual(writes({ cpu: { realtimePeriod: 10_000, realtimeRuntime: 3000 } }, hybridHost()), [
    "cpu.rt_runtime_us: 0",
    "cpu.rt_period_us: 10000",
    "cpu.rt_runtime_us: 3000",
  ]);
  const devices = [{ allow: false, type: "c", major: 1, minor: 11, access: "rwa" }];
  for (const host of [hybridHost(), v2Host()])
    assert.deepEqual(cgroupCreation("/p/c", host, { devices }).warnings, [
      'linux.resources.devices[0].access: "a" is none of r, w and m: ignored',
    ]);
  assert.equal(writes({ devices }, hybridHost())[0], "devices.deny: c 1:11 rw");
});

test("BFQ is found by what it counts in the root: weights are in the cgroups below it alone", async (t) => {
  const { v1, bfq } = probeCgroups();
  const blkio = v1.find(({ controllers }) => controllers.includes("blkio"));
  if (blkio === undefined) return t.skip("no v1 blkio hierarchy");
  assert.equal(bfq, existsSync(join(blkio.mountpoint, "blkio.bfq.io_service_bytes")));
});

test("on v1 a limit of one process is left to the container's own, which is made by another", () => {
  const make = (limit: number, host: HostFacts) => {
    const { orders, late } = cgroupCreation("/p/c", host, { pids: { limit } });
    return [orders.map(orderWords).filter((line) => line.includes("pids.max")).length, late?.value];
  };
  for (const limit of [0, 1]) assert.deepEqual(make(limit, hybridHost()), [0, "1"]);
  for (const limit of [2, -1]) assert.deepEqual(make(limit, hybridHost()), [1, undefined]);
  assert.deepEqual(make(1, v2Host()), [1, undefined]);
});

test("removal reaches every hierarchy; the oom counter is the memory controller's", () => {
  assert.equal(cgroupRemoval("/pod/ctr", hybridHost()).orders.length, 9);
  assert.deepEqual(oomCounter("/p/c", hybridHost()), {
    file: "/sys/fs/cgroup/memory/p/c/memory.oom_control",
    key: "oom_kill",
  });
  assert.deepEqual(oomCounter("/p/c", v2Host()), { file: "/sys/fs/cgroup/p/c/memory.events", key: "oom_kill" });
});

test("cgroup paths are cleaned, and can be neither the root nor above it", () => {
  assert.equal(cleanCgroupPath("a//b/./c/"), "/a/b/c");
  for (const path of ["", "/", "/../x", "a/../../b", "."])
    assert.throws(() => cleanCgroupPath(path), /below the root/, path);
});

test("hierarchies as mountinfo shows them", () => {
  const mounts = parseMountInfo(
    [
      "1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
      "2 0 0:2 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
      "3 0 0:1 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct",
      "4 0 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate",
    ].join("\n"),
  );
  assert.deepEqual(v1Hierarchies(mounts), [
    { mountpoint: "/sys/fs/cgroup/cpu,cpuacct", controllers: ["cpu", "cpuacct"] },
    { mountpoint: "/sys/fs/cgroup/systemd", controllers: ["name=systemd"] },
  ]);
});

test("huge page sizes by the kernel's names", () => {
  assert.deepEqual(["2Mi", "1Gi", "2MB", "64KB", "1gb", "64Ki"].map(pageSizeName), [
    "2MB",
    "1GB",
    "2MB",
    "64KB",
    "1GB",
    "64KB",
  ]);
});
