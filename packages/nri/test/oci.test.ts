/** What plugins are shown of an OCI configuration, and what an adjustment makes of it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type ContainerAdjustment,
  ContainerAdjustmentSchema,
  IOPrioClass,
  LinuxSchedulerFlag,
  LinuxSchedulerPolicy,
  MpolFlag,
  MpolMode,
} from "@berth/spec/nri";
import type { oci } from "@berth/spec/oci";
import { adjustSpec, type AdjustOptions, containerOf } from "@berth/nri";

type Adjust = Exclude<MessageInitShape<typeof ContainerAdjustmentSchema>, ContainerAdjustment>;

describe("an OCI configuration", () => {
  const spec: oci.Spec = {
    ociVersion: "1.3.0",
    process: {
      user: { uid: 1, gid: 2, additionalGids: [3] },
      cwd: "/",
      args: ["sh"],
      env: ["PATH=/bin", "A=1", "B=2"],
      rlimits: [{ type: "RLIMIT_NOFILE", soft: 1, hard: 2 }],
    },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/data/deep", type: "bind", source: "/x", options: ["rbind"] },
      { destination: "/data", type: "bind", source: "/y" },
    ],
    annotations: { keep: "1", drop: "2" },
    hooks: { prestart: [{ path: "/first" }] },
    linux: {
      cgroupsPath: "/pods/one",
      namespaces: [{ type: "pid" }, { type: "network", path: "/run/netns/x" }],
      devices: [{ path: "/dev/null", type: "c", major: 1, minor: 3, fileMode: 0o666 }],
      resources: { devices: [{ allow: false }], memory: { limit: 1000 }, cpu: { shares: 2 } },
      sysctl: { "net.a": "1", "net.b": "2" },
      netDevices: { eth9: { name: "eth0" } },
      intelRdt: { closID: "old" },
      seccomp: { defaultAction: "SCMP_ACT_ERRNO", syscalls: [{ names: ["read"], action: "SCMP_ACT_ALLOW" }] },
    },
  };
  const options: AdjustOptions = {
    injectDevices: (to, names) =>
      Promise.resolve({ ...to, annotations: { ...to.annotations, injected: names.join() } }),
    checkPropagation: () => Promise.resolve(),
    checkResources: (resources) => resources,
  };
  const made = (adjust: Adjust, more: Partial<AdjustOptions> = {}): Promise<oci.Spec> =>
    adjustSpec(spec, create(ContainerAdjustmentSchema, adjust), { ...options, ...more });

  test("is shown to plugins as it is", () => {
    const shown = containerOf(spec);
    assert.deepEqual([shown.args, shown.env], [["sh"], ["PATH=/bin", "A=1", "B=2"]]);
    assert.deepEqual(shown.user, { uid: 1, gid: 2, additionalGids: [3] });
    assert.deepEqual(shown.rlimits, [{ type: "RLIMIT_NOFILE", soft: 1n, hard: 2n }]);
    assert.equal(shown.hooks?.prestart?.[0]?.path, "/first");
    assert.deepEqual(shown.linux?.namespaces, [
      { type: "pid", path: "" },
      { type: "network", path: "/run/netns/x" },
    ]);
    assert.equal(shown.linux?.resources?.memory?.limit?.value, 1000n);
    assert.equal(shown.linux?.seccompPolicy?.syscalls?.[0]?.action, "SCMP_ACT_ALLOW");
    assert.equal(shown.linux?.rdt?.closId?.value, "old");
  });

  test("stays as it is where nothing is asked", async () => {
    assert.deepEqual(
      JSON.parse(JSON.stringify(await made({}))),
      JSON.parse(JSON.stringify({ ...spec, linux: { ...spec.linux } })),
    );
  });

  test("gets annotations, variables, arguments, hooks, rlimits and scheduling", async () => {
    const { process, annotations, hooks } = await made({
      annotations: { "-drop": "", new: "3" },
      env: [{ key: "-A" }, { key: "B", value: "9" }, { key: "C", value: "8" }],
      args: ["sleep", "1"],
      hooks: { prestart: [{ path: "/second", timeout: { value: 5n } }], poststop: [{ path: "/last", args: ["last"] }] },
      rlimits: [{ type: "RLIMIT_NOFILE", soft: 7n, hard: 2n ** 64n - 1n }, { type: "RLIMIT_CORE" }],
      linux: {
        oomScoreAdj: { value: -3n },
        ioPriority: { class: IOPrioClass.IOPRIO_CLASS_BE, priority: 4 },
        scheduler: {
          policy: LinuxSchedulerPolicy.SCHED_DEADLINE,
          flags: [LinuxSchedulerFlag.SCHED_FLAG_RECLAIM],
          runtime: 10n,
          deadline: 20n,
          period: 30n,
        },
      },
    });
    assert.deepEqual(annotations, { keep: "1", new: "3" });
    assert.deepEqual(process?.env, ["PATH=/bin", "B=9", "C=8"]);
    assert.deepEqual(process?.args, ["sleep", "1"]);
    assert.deepEqual(hooks, {
      prestart: [{ path: "/first" }, { path: "/second", timeout: 5 }],
      poststop: [{ path: "/last", args: ["last"] }],
    });
    assert.deepEqual(process?.rlimits, [
      { type: "RLIMIT_NOFILE", soft: 7, hard: 2n ** 64n - 1n },
      { type: "RLIMIT_CORE", soft: 0, hard: 0 },
    ]);
    assert.equal(process?.oomScoreAdj, -3);
    assert.deepEqual(process?.ioPriority, { class: "IOPRIO_CLASS_BE", priority: 4 });
    assert.deepEqual(process?.scheduler, {
      policy: "SCHED_DEADLINE",
      nice: 0,
      priority: 0,
      flags: ["SCHED_FLAG_RECLAIM"],
      runtime: 10,
      deadline: 20,
      period: 30,
    });
  });

  test("gets mounts, each below its parent, and the propagation that they need", async () => {
    const checked: string[] = [];
    const { mounts, linux } = await made(
      {
        mounts: [
          { destination: "-/data/deep" },
          { destination: "/data", type: "bind", source: "/z", options: ["rbind", "rslave"] },
          { destination: "/data/new/er", source: "/q", options: ["rbind", "rprivate"] },
        ],
      },
      { checkPropagation: (source, how) => Promise.resolve(void checked.push(`${source} ${how}`)) },
    );
    assert.deepEqual(
      mounts?.map(({ destination, source }) => `${destination} ${source}`),
      ["/proc proc", "/data /z", "/data/new/er /q"],
    );
    assert.deepEqual([checked, linux?.rootfsPropagation], [["/z rslave"], "rslave"]);
  });

  test("gets devices with their rules, namespaces, sysctls, interfaces, a memory policy, a cgroup and CDI devices", async () => {
    const { linux, annotations } = await made({
      CDIDevices: [{ name: "v.com/c=1" }, { name: "v.com/c=2" }],
      linux: {
        devices: [
          { path: "-/dev/null" },
          { path: "/dev/disk", type: "b", major: 8n, minor: 1n, fileMode: { value: 0o60640 }, uid: { value: 5 } },
        ],
        namespaces: [{ type: "-pid" }, { type: "network", path: "/other" }, { type: "ipc" }],
        sysctl: { "-net.a": "", "net.c": "3" },
        netDevices: { "-eth9": {}, eth1: { name: "data0" } },
        memoryPolicy: { mode: MpolMode.MPOL_INTERLEAVE, nodes: "0", flags: [MpolFlag.MPOL_F_STATIC_NODES] },
        cgroupsPath: "/elsewhere/one",
      },
    });
    assert.equal(annotations?.["injected"], "v.com/c=1,v.com/c=2");
    assert.deepEqual(linux?.devices, [{ path: "/dev/disk", type: "b", major: 8, minor: 1, fileMode: 0o640, uid: 5 }]);
    assert.deepEqual(linux?.resources?.devices, [
      { allow: false },
      { allow: true, type: "b", major: 8, minor: 1, access: "rwm" },
    ]);
    assert.deepEqual(linux?.namespaces, [{ type: "network", path: "/other" }, { type: "ipc" }]);
    assert.deepEqual(linux?.sysctl, { "net.b": "2", "net.c": "3" });
    assert.deepEqual(linux?.netDevices, { eth1: { name: "data0" } });
    assert.deepEqual(linux?.memoryPolicy, { mode: "MPOL_INTERLEAVE", nodes: "0", flags: ["MPOL_F_STATIC_NODES"] });
    assert.equal(linux?.cgroupsPath, "/elsewhere/one");
  });

  test("gets limits, seccomp and RDT", async () => {
    const { linux } = await made({
      linux: {
        resources: {
          memory: { limit: { value: 2000n }, reservation: { value: 5n } },
          cpu: { quota: { value: 7n }, cpus: "1" },
          pids: { limit: 9n },
          hugepageLimits: [{ pageSize: "2MB", limit: 4n }],
          unified: { "memory.high": "5" },
          devices: [{ allow: true, type: "c", major: { value: 10n }, access: "rw" }],
        },
        seccompPolicy: {
          defaultAction: "SCMP_ACT_ALLOW",
          defaultErrno: { value: 38 },
          syscalls: [
            {
              names: ["personality"],
              action: "SCMP_ACT_ERRNO",
              errnoRet: { value: 1 },
              args: [{ index: 0, value: 0xffffffffffffffffn, op: "SCMP_CMP_EQ" }],
            },
          ],
        },
        rdt: { remove: true, schemata: { value: ["L3:0=f"] } },
      },
    });
    const { resources, seccomp } = linux ?? {};
    assert.deepEqual(resources?.memory, { limit: 2000, swap: 2000, reservation: 5 });
    assert.deepEqual(resources?.cpu, { shares: 2, quota: 7, cpus: "1" });
    assert.deepEqual([resources?.pids, resources?.unified], [{ limit: 9 }, { "memory.high": "5" }]);
    assert.deepEqual(resources?.hugepageLimits, [{ pageSize: "2MB", limit: 4 }]);
    assert.deepEqual(resources?.devices?.[1], { allow: true, type: "c", major: 10, access: "rw" });
    assert.deepEqual(seccomp, {
      defaultAction: "SCMP_ACT_ALLOW",
      defaultErrnoRet: 38,
      syscalls: [
        {
          names: ["personality"],
          action: "SCMP_ACT_ERRNO",
          errnoRet: 1,
          args: [{ index: 0, value: 0xffffffffffffffffn, valueTwo: 0, op: "SCMP_CMP_EQ" }],
        },
      ],
    });
    assert.deepEqual(linux?.intelRdt, { schemata: ["L3:0=f"] });
    assert.deepEqual((await made({ linux: { resources: { rdtClass: { value: "gold" } } } })).linux?.intelRdt, {
      closID: "gold",
    });
  });

  test("is refused what cannot be done, by name", async () => {
    await assert.rejects(
      made({ linux: { resources: { blockioClass: { value: "slow" } } } }),
      /"slow": berth reads no blockio classes/,
    );
    await assert.rejects(made({ linux: { namespaces: [{ type: "pids" }] } }), /"pids" is no namespace/);
    await assert.rejects(made({ linux: { memoryPolicy: { mode: 99 as MpolMode } } }), /MpolMode 99 is not known/);
  });
});
