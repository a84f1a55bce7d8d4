/** Plans as values: their order, their slots, and what they refuse. No root, no bosun. */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { decodePlan, encodePlan, NO_SLOT, type HostFacts, type Order, type OrderName, type Plan } from "@berth/kernel";
import type { oci } from "@berth/spec";
import fc from "fast-check";
import { describePlan, planContainer, planExec, PlanError, type ContainerContext } from "../src/index.ts";
import { commonDirectory } from "../src/rootfs.ts";
import { cleanPath } from "../src/paths.ts";
import { hybridHost, v2Host } from "@berth/kernel/testing/hosts";
import { shellSpec, withLinux, withProcess } from "./support/machine.ts";

const context = (host: HostFacts = hybridHost(), more: Partial<ContainerContext> = {}): ContainerContext => ({
  id: "c1",
  rootfs: { kind: "overlay", lowers: ["/layers/2", "/layers/1"], upper: "/run/upper", work: "/run/work" },
  cgroup: { path: "/pods/p1/c1" },
  host,
  terminal: false,
  ...more,
});
const words = (plan: Plan): string[] => describePlan(plan).map((line) => line.words);
const text = (plan: Plan): string =>
  describePlan(plan)
    .map(({ where, words: line, because }) => `${where.padEnd(9)} ${line}${because === "" ? "" : `  # ${because}`}\n`)
    .join("");

/** `UPDATE_GOLDEN=1` writes them anew; read the difference before it is committed. */
async function golden(name: string, plan: Plan): Promise<void> {
  const file = new URL(`golden/${name}.txt`, import.meta.url);
  if (process.env["UPDATE_GOLDEN"] === "1") await writeFile(file, text(plan));
  assert.equal(text(plan), await readFile(file, "utf8"));
}

function fullSpec(): oci.Spec {
  const spec = shellSpec("echo hello");
  return {
    ...spec,
    root: { path: "rootfs", readonly: true },
    process: {
      ...(spec.process as oci.Process),
      cwd: "/srv",
      user: { uid: 1000, gid: 1000, additionalGids: [10] },
      rlimits: [{ type: "RLIMIT_NOFILE", soft: 1024, hard: 4096 }],
      oomScoreAdj: 100,
      noNewPrivileges: false,
      ioPriority: { class: "IOPRIO_CLASS_BE", priority: 4 },
      scheduler: { policy: "SCHED_BATCH", nice: 3 },
    },
    mounts: [
      ...(spec.mounts ?? []),
      { destination: "/data", type: "bind", source: "/volumes/data", options: ["rbind", "rprivate", "rro", "nosuid"] },
      { destination: "/etc/hosts", type: "bind", source: "/pods/hosts", options: ["bind", "ro"] },
    ],
    linux: {
      ...spec.linux,
      sysctl: { "net.ipv4.ip_forward": "1" },
      rootfsPropagation: "rslave",
      devices: [{ path: "/dev/fuse", type: "c", major: 10, minor: 229 }],
      resources: {
        memory: { limit: 1 << 28 },
        cpu: { shares: 512 },
        pids: { limit: 100 },
        devices: [{ allow: false }, { allow: true, type: "c", major: 10, minor: 229, access: "rwm" }],
      },
    },
  };
}

test("golden: a full configuration on a hybrid host", () =>
  golden(
    "container-hybrid",
    planContainer(fullSpec(), context(hybridHost(), { terminal: true, seccomp: filter })).plan,
  ));
test("golden: a full configuration on a v2 host", () =>
  golden("container-v2", planContainer(fullSpec(), context(v2Host(), { seccomp: filter })).plan));
test("golden: the overlay of a kernel before 6.7", () => {
  const host = v2Host();
  const old = { ...host, features: { ...host.features, lowerdirPlus: false, lowerdirFd: false } };
  return golden(
    "container-old-kernel",
    planContainer(withLinux({ maskedPaths: [], readonlyPaths: [] })({ ...shellSpec("true"), mounts: [] }), context(old))
      .plan,
  );
});
test("golden: an exec", () =>
  golden(
    "exec-hybrid",
    planExec({ pid: 4242, spec: fullSpec(), cgroup: { path: "/pods/p1/c1" } }, fullSpec().process as oci.Process, {
      host: hybridHost(),
      terminal: true,
      seccomp: filter,
    }).plan,
  ));

const filter = { flags: 4n, filter: new Uint8Array(80) };

// --- properties of every plan ------------------------------------------------------------------------------------------

const namespaceTypes = ["pid", "network", "ipc", "uts", "cgroup"] as const;
const anySpec: fc.Arbitrary<oci.Spec> = fc
  .record({
    namespaces: fc
      .array(
        fc.record({
          type: fc.constantFrom(...namespaceTypes),
          path: fc.option(fc.constant("/pins/x"), { nil: undefined }),
        }),
        { maxLength: 5 },
      )
      .map((list) => [...new Map(list.map((one) => [one.type, one])).values()]),
    userns: fc.boolean(),
    mounts: fc.subarray([...(fullSpec().mounts ?? [])]),
    extra: fc.array(fc.constantFrom("/a", "/a/b", "/srv/x", "/dev/mine"), { maxLength: 4 }),
    nnp: fc.boolean(),
    uid: fc.constantFrom(0, 1, 65_534),
    readonly: fc.boolean(),
    masked: fc.subarray(["/proc/kcore", "/sys/firmware"]),
  })
  .map(({ namespaces, userns, mounts, extra, nnp, uid, readonly, masked }) => {
    const maps = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
    const spec = shellSpec("true");
    return {
      ...spec,
      hostname: undefined,
      root: { path: "r", readonly },
      process: { ...(spec.process as oci.Process), noNewPrivileges: nnp, user: { uid, gid: uid } },
      mounts: [
        ...mounts,
        ...extra.map((destination, index): oci.Mount =>
          index % 2
            ? { destination, type: "tmpfs", source: "t", options: ["ro"] }
            : { destination, type: "bind", source: "/v", options: ["bind", "ro"] },
        ),
      ],
      linux: {
        ...(userns && { uidMappings: maps, gidMappings: maps }),
        namespaces: [...namespaces, ...(userns ? [{ type: "user" as const }] : [])],
        maskedPaths: masked,
      },
    };
  });
const anyHost = fc.constantFrom(hybridHost(), v2Host());
const anyPlan = fc
  .record({ spec: anySpec, host: anyHost, terminal: fc.boolean(), path: fc.boolean() })
  .map(
    ({ spec, host, terminal, path }) =>
      planContainer(
        spec,
        context(host, { terminal, seccomp: filter, ...(path && { rootfs: { kind: "path" as const, path: "/r" } }) }),
      ).plan,
  );

const WRITES: Readonly<Record<string, readonly string[]>> = {
  open: ["slot"],
  open_tree: ["slot"],
  fs_mount: ["slot"],
  tmpfs_like: ["slot"],
  clone_in: ["slot"],
  pidfd: ["slot"],
  attach_root: ["root"],
};
const SLOT_FIELDS = ["slot", "root", "nullSlot", "dirSlot", "usernsSlot", "cgroupSlot"];

test("every slot is filled before it is used, and not used after it was closed", () => {
  fc.assert(
    fc.property(anyPlan, (plan) => {
      const open = new Set<number>();
      for (const order of plan.orders) {
        const args = order.args as Record<string, unknown>;
        const uses = [
          ...SLOT_FIELDS.filter((field) => !(WRITES[order.order] ?? []).includes(field)).map((field) => args[field]),
          ...((args["fdSlots"] as number[] | undefined) ?? []),
        ];
        for (const slot of uses)
          if (typeof slot === "number" && slot !== NO_SLOT)
            assert.ok(open.has(slot), `${order.order} uses slot ${slot}, which is empty`);
        for (const field of WRITES[order.order] ?? []) open.add(args[field] as number);
        if (order.order === "close") open.delete(args["slot"] as number);
      }
    }),
  );
});

test("every plan survives the wire, and says what asked for each order", () => {
  fc.assert(
    fc.property(anyPlan, (plan) => {
      assert.equal(decodePlan(encodePlan(plan)).orders.length, plan.orders.length);
      for (const order of plan.orders) assert.ok(order.because, order.order);
    }),
  );
});

test("the sequence that keeps every plan safe", () => {
  fc.assert(
    fc.property(anyPlan, (plan) => {
      const names = plan.orders.map(({ order }) => order);
      const at = (name: OrderName): number => names.indexOf(name);
      const last = (name: OrderName): number => names.lastIndexOf(name);
      assert.equal(at("dumpable"), 0, "before any namespace is entered");
      assert.equal(at("clone"), last("clone"));
      assert.ok(
        at("enter_empty_mounts") < at("clone") && at("clone") < at("attach_root") && at("attach_root") < at("pivot"),
      );
      // After the near-empty mount namespace no path of the host is in sight.
      const host = new Set(["open_tree", "mkdir", "write_file", "join_cgroup", "inherit_cpuset"]);
      for (const [index, name] of names.entries())
        if (host.has(name)) assert.ok(index < at("enter_empty_mounts"), name);
      for (const inside of ["move_mount", "mkdev", "symlink", "console"] as const)
        if (at(inside) >= 0) assert.ok(at(inside) > at("attach_root") && last(inside) < at("pivot"), inside);
      for (const after of ["mask", "readonly", "caps", "bounding"] as const)
        if (at(after) >= 0) assert.ok(at(after) > at("pivot"), after);
      assert.ok(
        at("bounding") < last("user") &&
          last("user") < at("caps") &&
          at("caps") < at("park") &&
          at("park") < at("exec"),
      );
      assert.equal(at("exec"), names.length - 1);
      // CVE-2024-21626: after the last chdir nothing moves.
      assert.ok(last("chdir") > at("pivot"));
      // With no_new_privs the filter is next to exec, so that only execve has to pass it; without, before the user changes.
      if (at("no_new_privs") >= 0) assert.equal(at("seccomp"), at("exec") - 1);
      else assert.ok(at("seccomp") < last("user"));
    }),
  );
});

test("masked paths are bound from one checked descriptor", () => {
  const { plan } = planContainer(shellSpec("true"), context());
  const names = plan.orders.map(({ order }) => order);
  const check = names.indexOf("check_device");
  assert.equal(names[check - 1], "open");
  assert.ok(names.indexOf("mask") > check);
  const field = (index: number, name: string): unknown =>
    (plan.orders[index]?.args as Record<string, unknown> | undefined)?.[name];
  const slot = field(check - 1, "slot");
  assert.equal(typeof slot, "number");
  assert.equal(field(check, "slot"), slot);
  assert.equal(field(names.indexOf("mask"), "nullSlot"), slot);
});

test("a read-only tmpfs that others are mounted in becomes read-only last", () => {
  const tmpfs = (destination: string): oci.Mount => ({ destination, type: "tmpfs", source: "t", options: ["ro"] });
  const { plan } = planContainer(
    { ...shellSpec("true"), mounts: [tmpfs("/a"), tmpfs("/a/b"), tmpfs("/c")] },
    context(),
  );
  const lines = words(plan);
  const made = lines.filter((line) => line.startsWith("make tmpfs mount") && !line.includes("nr_inodes"));
  assert.deepEqual(made, [
    "make tmpfs mount with the mode of /a",
    "make tmpfs mount with the mode of /a/b MOUNT_ATTR_RDONLY",
    "make tmpfs mount with the mode of /c MOUNT_ATTR_RDONLY",
  ]);
  assert.ok(
    lines.findIndex((line) => line.includes("+MOUNT_ATTR_RDONLY")) >
      lines.findIndex((line) => line.includes("pivot_root")),
  );
});

test("cgroup namespaces are made inside, where the process is in its cgroup", () => {
  for (const host of [hybridHost(), v2Host()]) {
    const { plan } = planContainer(shellSpec("true"), context(host));
    const clone = plan.orders.find(({ order }) => order === "clone") as Extract<Order, { order: "clone" }>;
    assert.equal(clone.args.flags & 0x200_0000n, 0n);
    assert.equal(clone.args.cgroupSlot, 127);
    assert.ok(
      words(plan).indexOf("unshare namespaces CLONE_NEWCGROUP") >
        words(plan).findIndex((line) => line.startsWith("clone")),
    );
  }
});

test("a joined user namespace comes last, and its root makes the mounts", () => {
  const namespaces: oci.LinuxNamespace[] = [
    { type: "user", path: "/pins/user" },
    { type: "network", path: "/pins/net" },
    { type: "pid" },
  ];
  const { plan } = planContainer({ ...withLinux({ namespaces })(shellSpec("true")), hostname: undefined }, context());
  const joins = words(plan).filter((line) => line.startsWith("join namespaces"));
  assert.deepEqual(
    joins.map((line) => line.split(" ")[2]),
    ["CLONE_NEWNET", "CLONE_NEWUSER"],
  );
  const lines = words(plan);
  assert.ok(lines.indexOf("become 0:0") < lines.indexOf("attach the rootfs at /rootfs"));
  assert.ok(
    lines.some((line) => line === "clone mount tree /dev/null") &&
      !lines.some((line) => line.startsWith("make device")),
    "devices are bound",
  );
});

test("id-mapped binds: by the joined user namespace, the container's own maps, or the mount's", () => {
  const mount: oci.Mount = { destination: "/v", type: "bind", source: "/v", options: ["rbind", "ridmap"] };
  const joined = withLinux({ namespaces: [{ type: "user", path: "/pins/user" }] });
  const { plan } = planContainer({ ...joined(shellSpec("true")), hostname: undefined, mounts: [mount] }, context());
  assert.ok(words(plan).some((line) => line.includes("+MOUNT_ATTR_IDMAP") && line.endsWith("recursively")));
  const maps = { uidMappings: [{ containerID: 0, hostID: 100_000, size: 65_536 }] };
  const own = withLinux({ namespaces: [{ type: "user" }], ...maps, gidMappings: maps.uidMappings });
  const made = planContainer({ ...own(shellSpec("true")), hostname: undefined, mounts: [mount] }, context()).plan;
  assert.ok(words(made).includes("make a user namespace to map ids by (0 100000 65536 )"));
  const itsOwn = { ...mount, options: ["bind", "idmap"], ...maps, gidMappings: maps.uidMappings };
  assert.ok(
    words(planContainer({ ...shellSpec("true"), mounts: [itsOwn] }, context()).plan).some((line) =>
      line.includes("+MOUNT_ATTR_IDMAP"),
    ),
  );
  refuses(
    { ...shellSpec("true"), mounts: [mount] },
    /mounts\[0\]\.options: ridmap needs uidMappings and gidMappings, or a user namespace/,
  );
});

test("propagation: slave by default, private and shared as asked, never more to the host", () => {
  const bind = (...options: string[]): string[] => {
    const { plan } = planContainer(
      { ...shellSpec("true"), mounts: [{ destination: "/v", type: "bind", source: "/v", options }] },
      context(),
    );
    return describePlan(plan)
      .filter(({ because, order }) => because === "mounts[0]" && order === "mount_attr")
      .map(({ words: line }) => line.replace(/^.*propagation /, ""));
  };
  assert.deepEqual(bind("rbind"), ["MS_SLAVE) recursively"]);
  assert.deepEqual(bind("bind"), ["MS_SLAVE)"]);
  assert.deepEqual(bind("rbind", "rprivate"), ["MS_PRIVATE) recursively"]);
  assert.deepEqual(bind("rbind", "private"), ["MS_SLAVE) recursively", "MS_PRIVATE)"]);
  assert.deepEqual(bind("rbind", "rslave"), ["MS_SLAVE) recursively"]);
  assert.deepEqual(bind("rbind", "rshared"), ["MS_SHARED) recursively"]);
});

test("what the machine cannot give is left out, with a warning", () => {
  const host = {
    ...hybridHost(),
    capabilities: { effective: (1n << 41n) - 1n - (1n << 24n), bounding: 0n, last: 40 },
    oomScoreAdj: 5,
    rlimits: { RLIMIT_NOFILE: { soft: 10n, hard: 20n } },
  };
  const all = ["CAP_SYS_RESOURCE", "CAP_KILL"];
  const spec = withProcess({
    oomScoreAdj: -998,
    capabilities: { bounding: all, effective: all, permitted: all, ambient: ["CAP_KILL"] },
    rlimits: [{ type: "RLIMIT_NOFILE", soft: 30, hard: 40 }],
  })(shellSpec("true"));
  const { plan, warnings } = planContainer(spec, context(host));
  const lines = words(plan);
  assert.ok(lines.includes('write "5" to /proc/self/oom_score_adj'));
  assert.ok(lines.includes("set rlimit RLIMIT_NOFILE to 20:20"));
  assert.ok(lines.includes("limit the bounding set to CAP_KILL"));
  assert.deepEqual(
    warnings.map((warning) => warning.split(":")[0]),
    ["process.oomScoreAdj", "process.rlimits[0]", "process.capabilities", "process.capabilities.ambient"],
  );
});

test("in a user namespace limits are raised by the stage, where that is allowed", () => {
  const maps = [{ containerID: 0, hostID: 1000, size: 10 }];
  const spec = withProcess({ rlimits: [{ type: "RLIMIT_NOFILE", soft: 9, hard: 1_000_000 }] })(
    withLinux({ namespaces: [{ type: "user" }], uidMappings: maps, gidMappings: maps })({
      ...shellSpec("true"),
      hostname: undefined,
    }),
  );
  const lines = describePlan(planContainer(spec, context()).plan).filter(({ order }) => order === "rlimit");
  assert.deepEqual(
    lines.map(({ where, words: line }) => `${where}: ${line}`),
    ["stage: set rlimit RLIMIT_NOFILE to 524288:1000000", "container: set rlimit RLIMIT_NOFILE to 9:1000000"],
  );
});

test("time offsets are set before anybody is in the namespace", () => {
  const spec = withLinux({ namespaces: [{ type: "time" }], timeOffsets: { monotonic: { secs: 86_400, nanosecs: 5 } } })(
    { ...shellSpec("true"), hostname: undefined },
  );
  const lines = words(planContainer(spec, context()).plan);
  const unshare = lines.indexOf("unshare namespaces CLONE_NEWTIME");
  assert.equal(lines[unshare + 1], 'write "monotonic 86400 5\\n" to /proc/self/timens_offsets');
  assert.ok(unshare + 1 < lines.findIndex((line) => line.startsWith("clone into")));
});

function refuses(spec: oci.Spec, message: RegExp, more: Partial<ContainerContext> = {}): void {
  assert.throws(
    () => planContainer(spec, context(hybridHost(), more)),
    (error: Error) => error instanceof PlanError && message.test(error.message),
    String(message),
  );
}

test("impossible configurations are refused by field", () => {
  const spec = shellSpec("true");
  refuses({ ...spec, process: undefined }, /^process: is missing/);
  refuses(withProcess({ args: [] })(spec), /^process\.args: is empty/);
  refuses(withProcess({ cwd: "relative" })(spec), /^process\.cwd/);
  refuses(
    withProcess({ capabilities: { effective: ["CAP_KILL"], permitted: [] } })(spec),
    /capabilities\.effective: CAP_KILL: not in the permitted set/,
  );
  refuses(withProcess({ rlimits: [{ type: "RLIMIT_FUN", soft: 1, hard: 1 }] })(spec), /rlimits\[0\]\.type/);
  refuses(withProcess({ rlimits: [{ type: "RLIMIT_CPU", soft: 2, hard: 1 }] })(spec), /above the hard limit/);
  refuses(withProcess({ apparmorProfile: "strict" })(spec), /AppArmor is not enabled/);
  refuses({ ...withLinux({ namespaces: [{ type: "pid" }] })(spec) }, /^hostname: needs a uts namespace/);
  refuses(
    withLinux({ memoryPolicy: { mode: "MPOL_HOPE" } })(spec),
    /memoryPolicy\.mode: invalid memory policy mode "MPOL_HOPE"/,
  );
  refuses(
    withLinux({ memoryPolicy: { mode: "MPOL_BIND", nodes: "0-" } })(spec),
    /memoryPolicy\.nodes: invalid memory policy nodes "0-"/,
  );
  refuses(withLinux({ personality: { domain: "LINUX", flags: ["X"] } })(spec), /personality\.flags/);
  refuses(withLinux({ intelRdt: { closID: "a" } })(spec), /intelRdt: resctrl is not mounted/);
  refuses(withLinux({ netDevices: { "eth/0": {} } })(spec), /netDevices\["eth\/0"\]/);
  refuses(
    withLinux({ netDevices: { eth0: {} }, namespaces: [{ type: "uts" }] })(spec),
    /netDevices: needs a network namespace/,
  );
  const notify: oci.LinuxSeccomp = {
    defaultAction: "SCMP_ACT_ALLOW",
    syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_NOTIFY" }],
  };
  refuses(withLinux({ seccomp: notify })(spec), /listenerPath: SCMP_ACT_NOTIFY needs/);
  refuses(
    { ...spec, mounts: [{ destination: "/x", type: "devpts", options: ["tmpcopyup"] }] },
    /mounts\[0\]\.options: tmpcopyup is for tmpfs/,
  );
  refuses(withLinux({ namespaces: [{ type: "pid" }, { type: "pid" }] })(spec), /pid is given twice/);
  refuses(
    withLinux({ resources: { memory: { limit: 5, swap: 2 } } })(spec),
    /^linux\.resources\.memory\.swap: 2 is memory and swap together/,
  );
  refuses(withLinux({ rootfsPropagation: "sideways" })(spec), /rootfsPropagation/);

  const mount = (one: oci.Mount): oci.Spec => ({ ...spec, mounts: [one] });
  refuses(mount({ destination: "/a", type: "bind", source: "relative", options: [] }), /mounts\[0\]\.source/);
  refuses(
    mount({ destination: "/a", type: "bind", source: "/x", options: ["size=1"] }),
    /takes no options of a file system/,
  );
  refuses(mount({ destination: "/", type: "tmpfs", source: "t" }), /over the root/);
  refuses(mount({ destination: "/a" }), /mounts\[0\]\.type/);
  refuses(
    {
      ...spec,
      mounts: Array.from({ length: 4200 }, (_, index) => ({
        destination: `/v${index}`,
        type: "bind",
        source: "/x",
        options: ["bind"],
      })),
    },
    /mounts\[\d+\]: needs more than the 4096 descriptors/,
  );
  refuses(spec, /500 layers|501 layers/, {
    rootfs: { kind: "overlay", lowers: Array.from({ length: 501 }, (_, index) => `/l/${index}`) },
  });
});

test("before Linux 6.7 too long layer paths are refused with what to do", () => {
  const host = v2Host();
  const old = { ...host, features: { ...host.features, lowerdirPlus: false, lowerdirFd: false } };
  const lowers = Array.from({ length: 50 }, (_, index) => `/layers/${"x".repeat(100)}${index}/fs`);
  assert.throws(
    () => planContainer(shellSpec("true"), context(old, { rootfs: { kind: "overlay", lowers } })),
    /before Linux 6\.7 overlayfs takes 4095/,
  );
});

test("layers below a common directory are named from there", () => {
  assert.equal(commonDirectory(["/a/b/1", "/a/b/2"]), "/a/b");
  assert.equal(commonDirectory(["/a/b", "/a/b/c"]), "/a");
  assert.equal(commonDirectory(["/x", "/y"]), "/");
});

test("paths are cleaned as the kernel would resolve them, and never climb", () => {
  assert.equal(cleanPath("/a/../../b//./c/"), "/b/c");
  fc.assert(
    fc.property(fc.array(fc.constantFrom("..", ".", "", "a", "b")), (parts) => {
      const clean = cleanPath(parts.join("/"));
      assert.ok(clean.startsWith("/") && !clean.split("/").includes("..") && cleanPath(clean) === clean);
    }),
  );
});
