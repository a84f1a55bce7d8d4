import assert from "node:assert/strict";
import { test } from "node:test";
import type { CgroupHierarchies } from "@berth/kernel";
import { type CgroupDriver, examine, type Finding } from "../src/doctor/checks.ts";
import type { Machine } from "../src/doctor/machine.ts";
import { berth } from "../src/program.ts";
import { testShell } from "./double/index.ts";

const PLUGINS = ["bridge", "host-local", "portmap", "loopback"];
const FILES: Readonly<Record<string, string>> = {
  "/proc/filesystems": "nodev\tproc\nnodev\toverlay\n\terofs\n",
  "/proc/swaps": "Filename\tType\n",
  "/proc/sys/net/ipv4/ip_forward": "1\n",
  "/proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
  "/proc/sys/fs/inotify/max_user_instances": "8192\n",
  "/proc/sys/fs/inotify/max_user_watches": "524288\n",
  "/proc/sys/kernel/pid_max": "4194304\n",
  "/proc/7/comm": "chronyd\n",
};
const DIRECTORIES: Readonly<Record<string, readonly string[]>> = {
  "/proc": ["7", "filesystems"],
  "/usr/lib": ["x86_64-linux-gnu"],
  "/usr/lib/x86_64-linux-gnu": ["libseccomp.so.2"],
  "/opt/cni/bin": PLUGINS,
};
const CGROUPS: CgroupHierarchies = {
  mode: "v2",
  v1: [],
  unified: { mountpoint: "/sys/fs/cgroup", controllers: ["cpu", "memory", "pids"] },
  swap: true,
  bfq: false,
};

interface Change extends Partial<Omit<Machine, "read" | "list">> {
  readonly files?: Readonly<Record<string, string | undefined>>;
  readonly directories?: Readonly<Record<string, readonly string[]>>;
}

const machine = ({ files = {}, directories = {}, ...more }: Change = {}): Machine => ({
  kernel: "6.8.0",
  uid: 0,
  read: (path) => Promise.resolve({ ...FILES, ...files }[path]),
  list: (path) => Promise.resolve({ ...DIRECTORIES, ...directories }[path] ?? []),
  hasProgram: () => Promise.resolve(true),
  free: () => Promise.resolve({ bytes: 50e9, share: 0.5, inodes: 0.9 }),
  ...more,
});
const look = (change?: Change, cgroups = CGROUPS, driver: CgroupDriver = "cgroupfs"): Promise<Finding[]> =>
  examine({ machine: machine(change), cgroups, root: "/var/lib/berth", driver });
const wrong = async (change: Change, cgroups?: CgroupHierarchies): Promise<Finding[]> =>
  (await look(change, cgroups)).filter(({ state }) => state !== "ok");

test("the kubelet, berthd and the init agree on who makes cgroups", async () => {
  const SYSTEMD = { "/proc/1/comm": "systemd\n" };
  const kubelet = (driver: string) => ({ "/var/lib/kubelet/config.yaml": `kind: X\ncgroupDriver: ${driver}\n` });
  const verdict = async (driver: CgroupDriver, files: Readonly<Record<string, string>>): Promise<string> => {
    const finding = (await look({ files }, CGROUPS, driver)).find(({ what }) => what === "cgroup driver");
    return `${finding?.state}: ${finding?.found}`;
  };
  assert.equal(await verdict("systemd", SYSTEMD), "ok: systemd");
  assert.equal(await verdict("systemd", { ...SYSTEMD, ...kubelet("systemd") }), "ok: systemd");
  assert.equal(await verdict("cgroupfs", kubelet("cgroupfs")), "ok: cgroupfs");
  assert.match(await verdict("systemd", {}), /^bad: systemd, which is not this machine's init/);
  assert.match(await verdict("cgroupfs", SYSTEMD), /^warning: cgroupfs, beside systemd/);
  for (const [own, other] of [
    ["systemd", "cgroupfs"],
    ["cgroupfs", "systemd"],
  ] as const)
    assert.match(
      await verdict(own, { ...SYSTEMD, ...kubelet(other) }),
      new RegExp(`^bad: berthd has ${own}, the kubelet ${other} .*pods are refused`),
    );
});

test("AppArmor without its parser", async () => {
  const files = { "/sys/module/apparmor/parameters/enabled": "Y\n" };
  assert.deepEqual(
    (await wrong({ files, hasProgram: (name) => Promise.resolve(name !== "apparmor_parser") })).map(({ mend }) => mend),
    ["apt-get install apparmor"],
  );
});

test("a node that is well has nothing to mend", async () => {
  const findings = await look();
  assert.deepEqual(
    findings.filter(({ state, mend }) => state !== "ok" || mend !== undefined),
    [],
  );
  assert.ok(findings.length >= 15);
});

const ILLNESSES: readonly (readonly [
  what: string,
  state: Finding["state"],
  mend: RegExp | undefined,
  change: Change,
])[] = [
  ["user", "warning", /^sudo/, { uid: 1000 }],
  ["kernel", "bad", undefined, { kernel: "5.4.0-generic" }],
  ["overlay file system", "bad", /^modprobe overlay$/, { files: { "/proc/filesystems": "\terofs\n" } }],
  ["EROFS", "warning", /^modprobe erofs$/, { files: { "/proc/filesystems": "nodev\toverlay\n" } }],
  ["libseccomp", "bad", /libseccomp2/, { directories: { "/usr/lib/x86_64-linux-gnu": [] } }],
  ["CNI plugins", "warning", /containernetworking-plugins/, { directories: { "/opt/cni/bin": ["bridge"] } }],
  ["packet filter", "bad", /iptables/, { hasProgram: () => Promise.resolve(false) }],
  ["IPv4 forwarding", "bad", /net\.ipv4\.ip_forward = 1/, { files: { "/proc/sys/net/ipv4/ip_forward": "0\n" } }],
  [
    "bridged traffic is filtered",
    "warning",
    /br_netfilter/,
    { files: { "/proc/sys/net/bridge/bridge-nf-call-iptables": undefined } },
  ],
  ["swap", "warning", /^swapoff -a$/, { files: { "/proc/swaps": "Filename\n/dev/sda2 partition\n" } }],
  [
    "inotify instances",
    "warning",
    /max_user_instances=512/,
    { files: { "/proc/sys/fs/inotify/max_user_instances": "128\n" } },
  ],
  ["clock", "warning", /chrony/, { files: { "/proc/7/comm": "sh\n" } }],
  ["disk", "warning", /prune/, { free: () => Promise.resolve({ bytes: 1e9, share: 0.1, inodes: 0.9 }) }],
  ["disk", "bad", /prune/, { free: () => Promise.resolve({ bytes: 50e9, share: 0.5, inodes: 0.01 }) }],
];

for (const [what, state, mend, change] of ILLNESSES) {
  test(`${what}: ${state}, and how it is mended`, async () => {
    const [finding, ...others] = await wrong(change);
    assert.deepEqual(others, []);
    assert.equal(finding?.what, what);
    assert.equal(finding?.state, state);
    if (mend) assert.match(finding?.mend ?? "", mend);
  });
}

test("cgroups without the memory controller", async () => {
  const [finding] = await wrong(
    {},
    { ...CGROUPS, unified: { mountpoint: "/sys/fs/cgroup", controllers: ["cpu", "pids"] } },
  );
  assert.deepEqual([finding?.state, finding?.mend], ["bad", "boot with the kernel parameters cgroup_enable=memory"]);
});

test("a daemon that does not answer is a finding, and the exit code says so", async () => {
  const shell = testShell();
  assert.equal(await berth(["-a", "/nowhere.sock", "doctor", "--json"], shell), 1);
  const findings = JSON.parse(shell.stdout.text) as Finding[];
  assert.deepEqual([findings[0]?.what, findings[0]?.state], ["berthd", "bad"]);
  assert.ok(findings.some(({ what }) => what === "kernel"));
});
