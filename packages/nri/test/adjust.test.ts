/** What plugins make of a container: who may set what, what the next one sees; who may object. */
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type ContainerAdjustment,
  ContainerAdjustmentSchema,
  type CreateContainerResponseSchema,
  Field,
  IOPrioClass,
  LinuxSchedulerPolicy,
  MpolMode,
  PodSandboxSchema,
  SecurityProfile_ProfileType,
} from "@berth/spec/nri";
import type { PodAndContainer, ValidatorSettings } from "@berth/nri";
import { container, Rig } from "./rig.ts";

type Answer = MessageInitShape<typeof CreateContainerResponseSchema>;
type Adjust = Exclude<MessageInitShape<typeof ContainerAdjustmentSchema>, ContainerAdjustment>;

/** Plugins 10-a, 20-b …, each with its answer to CreateContainer, asked about one container. */
async function asked(t: TestContext, answers: readonly Answer[], of: PodAndContainer = container()) {
  const rig = await Rig.open(t);
  const plugins = [];
  for (const [at, answer] of answers.entries()) {
    const handlers = { createContainer: () => Promise.resolve(answer) };
    plugins.push(await rig.plugin({ index: `${at + 1}0`, name: "abc"[at] ?? "z", handlers }));
  }
  return { rig, plugins, result: rig.nri.createContainer(of) };
}

const adjusted = async (
  t: TestContext,
  adjusts: readonly Adjust[],
  of?: PodAndContainer,
): Promise<ContainerAdjustment> => {
  const { result } = await asked(
    t,
    adjusts.map((adjust) => ({ adjust })),
    of,
  );
  const { adjustment } = await result;
  assert.ok(adjustment);
  return adjustment;
};

describe("adjustments of several plugins", () => {
  test("add up, and each plugin sees what those before it have made", async (t) => {
    const of = container({ env: ["A=1", "B=2"], mounts: [{ destination: "/data", source: "/old" }] });
    const adjusts: Adjust[] = [
      {
        annotations: { one: "1" },
        env: [{ key: "A", value: "9" }, { key: "-B" }],
        linux: { oomScoreAdj: { value: 5n } },
      },
      {
        mounts: [{ destination: "/data", source: "/new", type: "bind" }],
        hooks: { poststop: [{ path: "/bin/true" }] },
      },
      {},
    ];
    const { plugins, result } = await asked(
      t,
      adjusts.map((adjust) => ({ adjust })),
      of,
    );
    const { adjustment } = await result;
    assert.deepEqual(adjustment?.annotations, { one: "1" });
    const { container: seen } = (await plugins[2]?.request("createContainer")) ?? {};
    assert.deepEqual(seen?.env, ["A=9"]);
    assert.deepEqual(
      seen?.mounts.map(({ destination, source }) => [destination, source]),
      [["/data", "/new"]],
    );
    assert.deepEqual([seen?.annotations["one"], seen?.linux?.oomScoreAdj?.value], ["1", 5n]);
    assert.equal(seen?.hooks?.poststop[0]?.path, "/bin/true");
  });

  const conflicts: Readonly<Record<string, readonly [Adjust, RegExp]>> = {
    annotation: [{ annotations: { k: "v" } }, /plugins "20-b" and "10-a" both tried to set Annotations k/],
    mount: [{ mounts: [{ destination: "/data" }] }, /both tried to set Mounts \/data/],
    variable: [{ env: [{ key: "A", value: "1" }] }, /both tried to set Env A/],
    arguments: [{ args: ["sh"] }, /both tried to set Args/],
    device: [{ linux: { devices: [{ path: "/dev/x", type: "c" }] } }, /both tried to set Devices \/dev\/x/],
    "CDI device": [{ CDIDevices: [{ name: "v.com/c=1" }] }, /both tried to set CdiDevices v.com\/c=1/],
    limit: [{ linux: { resources: { memory: { limit: { value: 1n } } } } }, /both tried to set MemLimit/],
    CPUs: [{ linux: { resources: { cpu: { cpus: "0" } } } }, /both tried to set CPUSetCPUs/],
    "huge pages": [{ linux: { resources: { hugepageLimits: [{ pageSize: "2MB" }] } } }, /HugepageLimits 2MB/],
    "a cgroup file": [{ linux: { resources: { unified: { "cpu.max": "max" } } } }, /CgroupsUnified cpu.max/],
    "the cgroup": [{ linux: { cgroupsPath: "/x" } }, /CgroupsPath/],
    rlimit: [{ rlimits: [{ type: "RLIMIT_CORE" }] }, /Rlimits RLIMIT_CORE/],
    namespace: [{ linux: { namespaces: [{ type: "network" }] } }, /Namespace network/],
    sysctl: [{ linux: { sysctl: { "net.a": "1" } } }, /Sysctl net.a/],
    "network device": [{ linux: { netDevices: { eth1: { name: "eth0" } } } }, /LinuxNetDevices eth1/],
    scheduler: [{ linux: { scheduler: { policy: LinuxSchedulerPolicy.SCHED_BATCH } } }, /LinuxSched/],
    "memory policy": [{ linux: { memoryPolicy: { mode: MpolMode.MPOL_BIND } } }, /MemoryPolicy/],
    RDT: [{ linux: { rdt: { closId: { value: "x" } } } }, /RdtClosID/],
    seccomp: [{ linux: { seccompPolicy: { defaultAction: "SCMP_ACT_ALLOW" } } }, /SeccompPolicy/],
    "I/O priority": [{ linux: { ioPriority: { class: IOPrioClass.IOPRIO_CLASS_BE } } }, /IoPriority/],
  };
  for (const [what, [adjust, words]] of Object.entries(conflicts))
    test(`two that set the same ${what} are refused by name`, async (t) => {
      const { result } = await asked(t, [{ adjust }, { adjust }]);
      await assert.rejects(result, words);
    });

  test("one that removes first may set what another has set; a third may not", async (t) => {
    const replaced = await adjusted(t, [
      {
        env: [{ key: "A", value: "1" }],
        annotations: { k: "1" },
        args: ["one"],
        mounts: [{ destination: "/d", source: "/1" }],
      },
      {
        env: [{ key: "-A" }, { key: "A", value: "2" }],
        annotations: { "-k": "", k: "2" },
        args: ["", "two"],
        mounts: [{ destination: "-/d" }, { destination: "/d", source: "/2" }],
      },
    ]);
    assert.deepEqual(
      replaced.env.map(({ key, value }) => [key, value]),
      [["A", "2"]],
    );
    assert.deepEqual(replaced.annotations, { "-k": "", k: "2" });
    assert.deepEqual(replaced.args, ["two"]);
    assert.deepEqual(
      replaced.mounts.map(({ destination, source }) => [destination, source]),
      [["/d", "/2"]],
    );
    const third = await asked(t, [
      { adjust: { annotations: { k: "1" } } },
      { adjust: { annotations: { "-k": "", k: "2" } } },
      { adjust: { annotations: { k: "3" } } },
    ]);
    await assert.rejects(third.result, /plugins "30-c" and "20-b" both tried to set Annotations k/);
  });

  test("hooks may come of several", async (t) => {
    const hooks = (path: string): Adjust => ({ hooks: { createRuntime: [{ path }] } });
    const both = await adjusted(t, [hooks("/a"), hooks("/b")]);
    assert.deepEqual(
      both.hooks?.createRuntime.map(({ path }) => path),
      ["/a", "/b"],
    );
  });

  test("updates of others are collected, of the container itself refused", async (t) => {
    const update = (id: string, shares: bigint, ignoreFailure = false) => ({
      update: [{ containerId: id, linux: { resources: { cpu: { shares: { value: shares } } } }, ignoreFailure }],
    });
    const { result } = await asked(t, [update("other", 1n), update("another", 2n), update("other", 3n, true)]);
    const { adjustment, updates } = await result;
    assert.equal(adjustment, undefined);
    // The third may fail, and does: the first has set it.
    assert.deepEqual(
      updates.map(({ containerId, linux }) => [containerId, linux?.resources?.cpu?.shares?.value]),
      [
        ["other", 1n],
        ["another", 2n],
      ],
    );
    const conflict = await asked(t, [update("other", 1n), update("other", 2n)]);
    await assert.rejects(conflict.result, /plugins "20-b" and "10-a" both tried to set CPUShares/);
    const own = await asked(t, [update("one", 1n)]);
    await assert.rejects(own.result, /plugin "10-a" asked update of "one" during creation/);
  });
});

describe("an update", () => {
  test("becomes what the plugins make of it, each seeing the one before", async (t) => {
    const rig = await Rig.open(t);
    const resources = (shares: bigint) => ({ linux: { resources: { cpu: { shares: { value: shares } } } } });
    const first = () =>
      Promise.resolve({
        update: [
          { containerId: "one", ...resources(7n) },
          { containerId: "two", ...resources(8n) },
        ],
      });
    await rig.plugin({ index: "10", handlers: { updateContainer: first } });
    const second = await rig.plugin({ index: "20" });
    const of = container();
    const asking = create(ContainerAdjustmentSchema, {
      linux: { resources: { cpu: { shares: { value: 1n }, cpus: "0-3" } } },
    }).linux?.resources;
    assert.ok(asking);
    const { own, updates } = await rig.nri.updateContainer(of, asking);
    assert.deepEqual([own?.cpu?.shares?.value, own?.cpu?.cpus], [7n, "0-3"]);
    assert.deepEqual(
      updates.map(({ containerId }) => containerId),
      ["two"],
    );
    assert.equal((await second.request("updateContainer")).linuxResources?.cpu?.shares?.value, 7n);
  });

  test("nobody changes stays as it is", async (t) => {
    const rig = await Rig.open(t);
    await rig.plugin();
    const { own, updates } = await rig.nri.updateContainer(
      container(),
      create(ContainerAdjustmentSchema, { linux: { resources: {} } }).linux?.resources as never,
    );
    assert.deepEqual([own, updates], [undefined, []]);
  });
});

const NOTHING: ValidatorSettings = {
  rejectOciHookAdjustment: false,
  rejectRuntimeDefaultSeccompAdjustment: false,
  rejectUnconfinedSeccompAdjustment: false,
  rejectCustomSeccompAdjustment: false,
  rejectNamespaceAdjustment: false,
  rejectSysctlAdjustment: false,
  requiredPlugins: [],
  tolerateMissingPluginsAnnotation: "",
};

describe("validators", () => {
  const LOCALHOST = { linux: { seccompProfile: { profileType: SecurityProfile_ProfileType.LOCALHOST } } };
  const DEFAULT = { linux: { seccompProfile: { profileType: SecurityProfile_ProfileType.RUNTIME_DEFAULT } } };
  const policy: Adjust = { linux: { seccompPolicy: { defaultAction: "SCMP_ACT_ALLOW" } } };
  const cases: readonly (readonly [string, Partial<ValidatorSettings>, Adjust, RegExp, object?])[] = [
    [
      "hooks",
      { rejectOciHookAdjustment: true },
      { hooks: { prestart: [{ path: "/x" }] } },
      /"10-a" attempted restricted OCI hook/,
    ],
    [
      "seccomp where there is none",
      { rejectUnconfinedSeccompAdjustment: true },
      policy,
      /10-a attempted restricted unconfined/,
    ],
    [
      "the default seccomp",
      { rejectRuntimeDefaultSeccompAdjustment: true },
      policy,
      /restricted runtime default/,
      DEFAULT,
    ],
    ["the node's seccomp", { rejectCustomSeccompAdjustment: true }, policy, /restricted custom/, LOCALHOST],
    [
      "namespaces",
      { rejectNamespaceAdjustment: true },
      { linux: { namespaces: [{ type: "ipc" }] } },
      /"10-a" \(namespace "ipc"\)/,
    ],
    [
      "sysctls",
      { rejectSysctlAdjustment: true },
      { linux: { sysctl: { a: "1" } } },
      /restricted sysctl adjustment by plugin\(s\) 10-a/,
    ],
    ["missing plugins", { requiredPlugins: ["a", "b", "20-c"] }, {}, /required plugins "b,20-c" not present/],
  ];
  for (const [what, settings, adjust, words, more] of cases)
    test(`the built-in one rejects adjustments of ${what} where it is told to`, async (t) => {
      for (const [validator, holds] of [
        [{ ...NOTHING, ...settings }, false],
        [NOTHING, true],
      ] as const) {
        const rig = await Rig.open(t, { validator });
        assert.equal(rig.nri.isActive, true);
        await rig.plugin({ name: "a", handlers: { createContainer: () => Promise.resolve({ adjust }) } });
        const made = rig.nri.createContainer(container(more ?? {}));
        if (holds) await made;
        else await assert.rejects(made, words);
      }
    });

  test("a pod may require plugins, and tolerate that some are missing", async (t) => {
    const rig = await Rig.open(t, {
      validator: { ...NOTHING, requiredPlugins: ["x"], tolerateMissingPluginsAnnotation: "tolerate.example" },
    });
    await rig.plugin({ name: "a" });
    const of = (annotations: Record<string, string>): PodAndContainer => ({
      ...container(),
      pod: create(PodSandboxSchema, { id: "pod", annotations }),
    });
    await assert.rejects(rig.nri.createContainer(of({})), /required plugin "x" not present/);
    await assert.rejects(
      rig.nri.createContainer(of({ "required-plugins.noderesource.dev/container.app": "[a, y]" })),
      /required plugins "x,y" not present/,
    );
    await assert.rejects(rig.nri.createContainer(of({ "tolerate.example": "perhaps" })), /neither true nor false/);
    await rig.nri.createContainer(of({ "tolerate.example/pod": "true", "required-plugins.noderesource.dev": "[y]" }));
    await assert.rejects(
      rig.nri.createContainer(of({ "required-plugins.noderesource.dev": "{" })),
      /invalid required-plugins/,
    );
  });

  test("a plugin that validates sees the container before, the adjustment and who made it, and can reject it", async (t) => {
    const rig = await Rig.open(t);
    const adjust = { annotations: { k: "v" } };
    await rig.plugin({ index: "10", name: "a", handlers: { createContainer: () => Promise.resolve({ adjust }) } });
    const validator = await rig.plugin({
      index: "90",
      events: ["VALIDATE_CONTAINER_ADJUSTMENT"],
      handlers: { validateContainerAdjustment: () => Promise.resolve({ reject: true, reason: "not that" }) },
    });
    await assert.rejects(
      rig.nri.createContainer(container()),
      /validator "90-test" rejected container adjustment, reason: not that/,
    );
    const request = await validator.request("validateContainerAdjustment");
    assert.deepEqual(request.container?.annotations, {});
    assert.deepEqual(request.adjust?.annotations, { k: "v" });
    assert.equal(request.owners?.owners["one"]?.compound[Field.Annotations]?.owners["k"], "10-a");
    assert.deepEqual(
      request.plugins.map(({ index, name }) => `${index}-${name}`),
      ["10-a", "90-test"],
    );
  });
});
