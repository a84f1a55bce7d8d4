/** Real containers and their cgroups. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { oomCounter, readCgroupStats, updateResources } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { container, lines, machine, useMachine } from "./support/containers.ts";
import { shellSpec, withLinux, withProcess } from "./support/machine.ts";

useMachine();

container("limits are in the cgroup's files, in every hierarchy, and can be changed", async () => {
  const resources: oci.LinuxResources = {
    memory: { limit: 64 << 20 },
    cpu: { shares: 512, quota: 50_000, period: 100_000 },
    pids: { limit: 32 },
    devices: [{ allow: false }],
  };
  const running = await machine().create(withLinux({ resources })(shellSpec("sleep 60")));
  try {
    const { path } = running.context.cgroup;
    const read = async (controller: string, v1: string, v2: string): Promise<string> => {
      const hierarchy = machine().host.cgroups.v1.find(({ controllers }) => controllers.includes(controller));
      const file =
        hierarchy === undefined
          ? `${machine().host.cgroups.unified?.mountpoint}${path}/${v2}`
          : `${hierarchy.mountpoint}${path}/${v1}`;
      return (await readFile(file, "utf8")).trim();
    };
    const controllers = new Set([
      ...machine().host.cgroups.v1.flatMap((hierarchy) => hierarchy.controllers),
      ...(machine().host.cgroups.unified?.controllers ?? []),
    ]);
    const hasMemory = controllers.has("memory");
    if (hasMemory) assert.equal(await read("memory", "memory.limit_in_bytes", "memory.max"), String(64 << 20));
    if (controllers.has("pids")) assert.equal(await read("pids", "pids.max", "pids.max"), "32");
    if (controllers.has("cpu")) assert.ok(["512", "59"].includes(await read("cpu", "cpu.shares", "cpu.weight")));
    for (const name of ["memory", "pids", "cpu"])
      if (!controllers.has(name))
        assert.ok(
          running.warnings.some((warning) => warning.includes(`no ${name} cgroup controller`)),
          name,
        );
    for (const { mountpoint } of machine().host.cgroups.v1)
      assert.equal(
        (await readFile(`${mountpoint}${path}/cgroup.procs`, "utf8")).trim(),
        String(running.pid),
        mountpoint,
      );
    const { unified } = machine().host.cgroups;
    if (unified !== undefined)
      assert.equal((await readFile(`${unified.mountpoint}${path}/cgroup.procs`, "utf8")).trim(), String(running.pid));
    await running.link.start();
    for (const limit of [32 << 20, 128 << 20]) {
      await machine().hand.run(
        updateResources(
          path,
          { memory: { limit, swap: limit }, cpu: { quota: 20_000, period: 50_000 } },
          machine().host,
        ),
      );
      if (hasMemory) assert.equal(await read("memory", "memory.limit_in_bytes", "memory.max"), String(limit));
    }
    const stats = await readCgroupStats(path, machine().host);
    if (hasMemory)
      assert.deepEqual(
        [stats.cpuNs > 0n, stats.memoryBytes > 0n, stats.memoryLimitBytes, stats.pids],
        [true, true, BigInt(128 << 20), 1n],
      );
  } finally {
    await machine().end(running);
  }
});

container("a process that takes more memory than it may is killed, and the exit says why", async (t) => {
  if (oomCounter("/any", machine().host) === undefined) return t.skip("no memory controller");
  const resources = { memory: { limit: 24 << 20, swap: 24 << 20 } };
  const { state } = await machine().run("exec dd if=/dev/zero of=/dev/shm/x bs=1M count=60", withLinux({ resources }));
  assert.deepEqual([state.oom, state.signal, state.code], [true, 9, 137]);
  const calm = await machine().run(
    "kill -9 $$",
    withLinux({ resources, namespaces: [{ type: "mount" }, { type: "uts" }] }),
  );
  assert.deepEqual([calm.state.oom, calm.state.signal], [false, 9], "another kill is not one for memory");
});

container("with the least room there is on v1, it runs", async () => {
  assert.deepEqual(await lines("echo alone", withLinux({ resources: { pids: { limit: 2 } } })), ["alone"]);
});

container("v1 device rules hold: a device that is not allowed cannot be opened", async (t) => {
  if (!machine().host.cgroups.v1.some(({ controllers }) => controllers.includes("devices")))
    return t.skip("no v1 devices controller");
  const devices: oci.LinuxDevice[] = [{ path: "/dev/kmsg", type: "c", major: 1, minor: 11 }];
  const script = "cat /dev/zero | head -c 1 | wc -c; (: < /dev/kmsg) 2>/dev/null && echo opened || echo refused";
  const caps = ["CAP_SYSLOG", "CAP_SYS_ADMIN"];
  const withRules =
    (...rules: oci.LinuxDeviceCgroup[]) =>
    (spec: oci.Spec) =>
      withProcess({ capabilities: { bounding: caps, effective: caps, permitted: caps } })(
        withLinux({ devices, resources: { devices: rules } })(spec),
      );
  assert.deepEqual(await lines(script, withRules({ allow: false })), ["1", "refused"]);
  assert.deepEqual(
    await lines(script, withRules({ allow: false }, { allow: true, type: "c", major: 1, minor: 11, access: "r" })),
    ["1", "opened"],
  );
});

container("the cgroup mount without a cgroup namespace shows the container's own directories", async (t) => {
  if (machine().host.cgroups.mode === "v2") return t.skip("v2 shows its whole hierarchy");
  const namespaces = (shellSpec("").linux?.namespaces ?? []).filter(({ type }) => type !== "cgroup");
  const out = await lines(
    "cat /sys/fs/cgroup/pids/cgroup.procs; touch /sys/fs/cgroup/pids/x 2>/dev/null || echo ro",
    withLinux({ namespaces }),
  );
  assert.equal(out[0], "1");
  assert.equal(out.at(-1), "ro");
});
