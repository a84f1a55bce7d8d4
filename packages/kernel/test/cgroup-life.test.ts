/** Real cgroups: made, filled, read, killed and removed. */
import assert from "node:assert/strict";
import { access, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import {
  cgroupCreation,
  cgroupDirectories,
  cgroupRemoval,
  killCgroup,
  oomCounter,
  probeHost,
  processesBelow,
  readCgroupStats,
  type HostFacts,
} from "../src/index.ts";
import { Bench, canServe } from "./support/hand.ts";

const path = (name: string): string => `/berth-kernel-${process.pid}/${name}`;

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

function anyDirectory(name: string, host: HostFacts): string {
  const directories = cgroupDirectories(path(name), host.cgroups);
  return (
    directories.v1.find(({ hierarchy }) => hierarchy.controllers.includes("pids"))?.directory ??
    directories.unified ??
    ""
  );
}

test("made in every hierarchy, killed with all below though it is frozen, removed", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  const host = await probeHost(bench.hand);
  const all = (name: string): string[] => {
    const directories = cgroupDirectories(path(name), host.cgroups);
    return [
      ...directories.v1.map(({ directory }) => directory),
      ...(directories.unified === undefined ? [] : [directories.unified]),
    ];
  };
  const make = (name: string) =>
    bench.hand.run({
      orders: cgroupCreation(path(name), host, { pids: { limit: 50 } }).orders.filter(
        ({ order }) => order !== "join_cgroup",
      ),
    });
  await make("a");
  await make("a/below");
  try {
    for (const directory of [...all("a"), ...all("a/below")]) assert.ok(await exists(directory), directory);
    const join = all("a/below")
      .map((directory) => `echo $$ > ${directory}/cgroup.procs`)
      .join("; ");
    const running = bench.hand.spawn({
      argv: ["/bin/sh", "-c", `${join}; sleep 60 & sleep 60 & wait`],
      env: { PATH: "/bin:/usr/bin" },
    });
    await waitFor(async () => (await processesBelow(anyDirectory("a", host))).length === 3);
    const stats = await readCgroupStats(path("a/below"), host);
    const counts = [
      ...host.cgroups.v1.flatMap(({ controllers }) => controllers),
      ...(host.cgroups.unified?.controllers ?? []),
    ].includes("pids");
    assert.equal(stats.pids, counts ? 3n : 0n);
    const freezer = host.cgroups.v1.find(({ controllers }) => controllers.includes("freezer"));
    if (freezer !== undefined) await writeFile(`${freezer.mountpoint}${path("a")}/freezer.state`, "FROZEN");
    await killCgroup(path("a"), host);
    assert.deepEqual(await processesBelow(anyDirectory("a", host)), []);
    assert.equal((await running).signal, 9);
    const counter = oomCounter(path("a"), host);
    if (counter !== undefined)
      assert.match(await readFile(counter.file, "utf8"), new RegExp(`^${counter.key} 0$`, "m"));
  } finally {
    await bench.hand.run(cgroupRemoval(path("a"), host));
    await bench.hand.run(cgroupRemoval(`/berth-kernel-${process.pid}`, host));
  }
  for (const directory of all("a")) assert.ok(!(await exists(directory)), directory);
});

test("the kill by signals alone does it too", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  const probed = await probeHost(bench.hand);
  const host = { ...probed, features: { ...probed.features, cgroupKill: false } };
  await bench.hand.run({
    orders: cgroupCreation(path("s"), host).orders.filter(({ order }) => order !== "join_cgroup"),
  });
  try {
    const running = bench.hand.spawn({
      argv: ["/bin/sh", "-c", `trap '' TERM; echo $$ > ${anyDirectory("s", host)}/cgroup.procs; sleep 60`],
      env: { PATH: "/bin:/usr/bin" },
    });
    await waitFor(async () => (await processesBelow(anyDirectory("s", host))).length > 0);
    await killCgroup(path("s"), host);
    assert.equal((await running).signal, 9);
  } finally {
    await bench.hand.run(cgroupRemoval(`/berth-kernel-${process.pid}`, host));
  }
});

test("a cgroup that is not there is killed and removed already", async (t) => {
  if (!(await canServe(t))) return;
  await using bench = await Bench.start();
  const host = await probeHost(bench.hand);
  await killCgroup(path("absent"), host);
  await bench.hand.run(cgroupRemoval(path("absent"), host));
  await assert.rejects(readCgroupStats(path("absent"), host), { code: "ENOENT" });
});

/** Another process's doing that no event tells us of. */
async function waitFor(condition: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, "it did not happen within a minute");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
