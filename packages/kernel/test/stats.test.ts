/** Statistics from a cgroup's files, on machines of each kind: v1, v2 and hybrid, in directories that hold what a kernel writes. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import { readCgroupDetail, readCgroupStats, type CgroupHierarchies, type HostFacts } from "../src/index.ts";

/** A hierarchy root with one cgroup, "/c". */
function tree(t: TestContext, files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(tmpdir(), "berth-stats-"));
  t.after(() => rmSync(root, { recursive: true }));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), `${text}\n`);
  }
  return root;
}

const hostOf = (cgroups: Partial<CgroupHierarchies>): HostFacts =>
  ({ cgroups: { mode: "v2", v1: [], swap: true, bfq: false, ...cgroups } }) as unknown as HostFacts;

const PRESSURE = (total: number): string =>
  `some avg10=1.50 avg60=0.75 avg300=0.25 total=${total}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=${total / 2}`;
const V2_PRESSURE = {
  "c/cpu.pressure": PRESSURE(2000),
  "c/memory.pressure": PRESSURE(4000),
  "c/io.pressure": PRESSURE(6000),
};

test("cgroup v2", async (t) => {
  const mountpoint = tree(t, {
    "c/cpu.stat": "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 7\nnr_throttled 3\nthrottled_usec 900",
    "c/memory.current": "104857600",
    "c/memory.max": "209715200",
    "c/memory.stat":
      "anon 41943040\nfile 62914560\nkernel 1048576\nfile_mapped 4096\ninactive_file 20971520\nactive_file 8192\npgfault 11\npgmajfault 2",
    "c/memory.events": "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1",
    "c/memory.peak": "150000000",
    "c/memory.swap.current": "8192",
    "c/memory.swap.max": "max",
    "c/pids.current": "4",
    "c/pids.max": "100",
    "c/io.stat":
      "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=10 wbytes=20 rios=30 wios=40 dbytes=0 dios=0",
    ...V2_PRESSURE,
  });
  const host = hostOf({ unified: { mountpoint, controllers: ["cpu", "memory", "pids", "io"] } });
  const stats = await readCgroupStats("/c", host);
  assert.deepEqual(
    [stats.cpuNs, stats.memoryBytes, stats.workingSetBytes, stats.rssBytes, stats.memoryLimitBytes, stats.pids],
    [5_000_000n, 104857600n, 83886080n, 41943040n, 209715200n, 4n],
  );
  assert.deepEqual([stats.swapBytes, stats.swapLimitBytes], [8192n, undefined]);
  assert.deepEqual(stats.pressure?.cpu.some, { totalUs: 2000n, avg10: 1.5, avg60: 0.75, avg300: 0.25 });
  assert.equal(stats.pressure?.io.full.totalUs, 3000n);
  const detail = await readCgroupDetail("/c", host);
  assert.deepEqual(
    [detail.userNs, detail.systemNs, detail.periods, detail.throttledPeriods, detail.throttledNs],
    [3_000_000n, 2_000_000n, 7n, 3n, 900_000n],
  );
  assert.deepEqual(
    [detail.cacheBytes, detail.mappedFileBytes, detail.memoryFailures, detail.oomKills, detail.maxMemoryBytes],
    [62914560n, 4096n, 5n, 1n, 150000000n],
  );
  assert.deepEqual(detail.io[1], { major: 8, minor: 16, readBytes: 10n, writeBytes: 20n, reads: 30n, writes: 40n });
  assert.equal(detail.pidsLimit, 100n);
});

const V1 = {
  "cpu/c/cpu.stat": "nr_periods 7\nnr_throttled 3\nthrottled_time 900",
  "cpuacct/c/cpuacct.usage": "123456789",
  "cpuacct/c/cpuacct.stat": "user 5\nsystem 6",
  "memory/c/memory.usage_in_bytes": "104857600",
  "memory/c/memory.limit_in_bytes": "9223372036854771712",
  "memory/c/memory.memsw.limit_in_bytes": "9223372036854771712",
  "memory/c/memory.max_usage_in_bytes": "150000000",
  "memory/c/memory.failcnt": "5",
  "memory/c/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
  "memory/c/memory.stat":
    "cache 1\ninactive_file 2\ntotal_cache 62914560\ntotal_rss 41943040\ntotal_mapped_file 4096\ntotal_inactive_file 20971520\ntotal_active_file 8192\ntotal_swap 8192\ntotal_pgfault 11\ntotal_pgmajfault 2",
  "pids/c/pids.current": "4",
  "pids/c/pids.max": "max",
  "blkio/c/blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3",
  "blkio/c/blkio.throttle.io_serviced_recursive": "8:0 Read 3\n8:0 Write 4\n8:0 Total 7\nTotal 7",
};
const v1Of = (root: string): CgroupHierarchies["v1"] =>
  ["cpu", "cpuacct", "memory", "pids", "blkio"].map((name) => ({
    mountpoint: join(root, name),
    controllers: [name],
  }));

test("cgroup v1: the hierarchy's totals, no limit as none, ticks as nanoseconds; no pressure", async (t) => {
  const host = hostOf({ mode: "v1", v1: v1Of(tree(t, V1)) });
  const stats = await readCgroupStats("/c", host);
  assert.deepEqual(
    [stats.cpuNs, stats.memoryBytes, stats.workingSetBytes, stats.rssBytes, stats.memoryLimitBytes, stats.pids],
    [123456789n, 104857600n, 83886080n, 41943040n, undefined, 4n],
  );
  assert.deepEqual([stats.swapBytes, stats.swapLimitBytes, stats.pressure], [8192n, undefined, undefined]);
  const detail = await readCgroupDetail("/c", host);
  assert.deepEqual([detail.userNs, detail.systemNs, detail.throttledNs], [50_000_000n, 60_000_000n, 900n]);
  assert.deepEqual([detail.oomKills, detail.pidsLimit, detail.kernelBytes], [2n, undefined, 0n]);
  assert.deepEqual(detail.io, [{ major: 8, minor: 0, readBytes: 1n, writeBytes: 2n, reads: 3n, writes: 4n }]);
});

test("hybrid: v1's controllers, and pressure from cgroup2", async (t) => {
  const limits = { "memory/c/memory.limit_in_bytes": "1000", "memory/c/memory.memsw.limit_in_bytes": "1500" };
  const host = hostOf({
    mode: "hybrid",
    v1: v1Of(tree(t, { ...V1, ...limits })),
    unified: { mountpoint: tree(t, V2_PRESSURE), controllers: [] },
  });
  const stats = await readCgroupStats("/c", host);
  assert.deepEqual([stats.cpuNs, stats.memoryLimitBytes, stats.swapLimitBytes], [123456789n, 1000n, 500n]);
  assert.equal(stats.pressure?.memory.some.totalUs, 4000n);
});

test("a cgroup that is gone is ENOENT in both", async (t) => {
  const host = hostOf({ unified: { mountpoint: tree(t, V2_PRESSURE), controllers: [] } });
  await assert.rejects(readCgroupStats("/gone", host), { code: "ENOENT" });
});
