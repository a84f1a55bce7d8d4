/** The small tables: capabilities, signals, resource limits, sysctls, mount options, mountinfo, id maps, versions. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import fc from "fast-check";
import {
  atLeast,
  CAPABILITIES,
  isMountpoint,
  capabilitiesOfMask,
  capabilityMask,
  capabilityNames,
  capabilityNumber,
  clampRlimit,
  fileSystemData,
  hostId,
  idMapText,
  MOUNT_ATTR,
  MS,
  overlap,
  ownCapabilities,
  parseKernelVersion,
  parseLimits,
  parseMountInfo,
  parseMountOptions,
  parseSignal,
  RLIM_INFINITY,
  rlimitValue,
  signalName,
  sysctlFile,
} from "../src/index.ts";
import { mountsOf } from "../src/mountinfo.ts";

test("capabilities have the kernel's numbers", () => {
  assert.equal(capabilityNumber("CAP_SYS_ADMIN"), 21);
  assert.equal(capabilityNumber("CAP_CHECKPOINT_RESTORE"), 40);
  assert.equal(capabilityNumber("CAP_NOSUCH"), undefined);
  fc.assert(
    fc.property(fc.subarray([...CAPABILITIES]), (names) =>
      assert.deepEqual(capabilitiesOfMask(capabilityMask(names).mask), names),
    ),
  );
  assert.deepEqual(capabilityMask(["CAP_KILL", "CAP_FLY"]), { mask: 1n << 5n, unknown: ["CAP_FLY"] });
});

test("own capabilities are those of /proc/self/status", async () => {
  const own = ownCapabilities();
  const status = await readFile("/proc/self/status", "utf8");
  assert.ok(status.includes(`CapEff:\t${own.effective.toString(16).padStart(16, "0")}`));
  assert.equal(capabilityNames().length, own.last + 1);
});

test("signals by number, name and offset", () => {
  for (const [text, number] of [
    ["9", 9],
    ["TERM", 15],
    ["SIGTERM", 15],
    ["sigterm", 15],
    ["SIGRTMIN", 34],
    ["SIGRTMIN+3", 37],
    ["RTMAX-1", 63],
    ["SIGRTMAX", 64],
  ] as const) {
    assert.equal(parseSignal(text), number, text);
  }
  for (const text of ["0", "65", "", "SIGNOPE", "TERM+1", "RTMIN+99", "-9", "9x", "__proto__"])
    assert.equal(parseSignal(text), undefined, text);
  for (let number = 1; number <= 31; number++) assert.equal(parseSignal(signalName(number)), number);
  assert.equal(signalName(37), "SIGRTMIN+3");
});

test("limits as /proc shows them, and infinity however JSON rounds it", async () => {
  const limits = parseLimits(await readFile("/proc/self/limits", "utf8"));
  assert.equal(Object.keys(limits).length, 16);
  assert.equal(rlimitValue(JSON.parse("18446744073709551615") as number), RLIM_INFINITY);
  assert.equal(rlimitValue(18446744073709551615n), RLIM_INFINITY);
  assert.equal(rlimitValue(-1), RLIM_INFINITY);
  assert.equal(rlimitValue(1024), 1024n);
  assert.deepEqual(clampRlimit("RLIMIT_NOFILE", 16), { type: "RLIMIT_NOFILE", soft: 16, hard: 16 });
  const most = clampRlimit("RLIMIT_NOFILE", RLIM_INFINITY);
  assert.equal(BigInt(most.hard), limits.RLIMIT_NOFILE?.hard);
});

test("only sysctls of the container's own namespaces are given a file", () => {
  const all = new Set(["ipc", "network", "uts", "user"] as const);
  const path = (name: string) => sysctlFile(name, all);
  assert.deepEqual(path("net.ipv4.ip_forward"), { path: "sys/net/ipv4/ip_forward" });
  assert.deepEqual(path("net/ipv4/conf/eth0.1/forwarding"), { path: "sys/net/ipv4/conf/eth0.1/forwarding" });
  assert.deepEqual(path("net.ipv4.conf.eth0/1.forwarding"), { path: "sys/net/ipv4/conf/eth0.1/forwarding" });
  assert.deepEqual(path("kernel.shmmax"), { path: "sys/kernel/shmmax" });
  assert.deepEqual(path("fs.mqueue.msg_max"), { path: "sys/fs/mqueue/msg_max" });
  assert.deepEqual(path("user.max_user_namespaces"), { path: "sys/user/max_user_namespaces" });
  for (const name of [
    "kernel.core_pattern",
    "vm.swappiness",
    "fs.file-max",
    "kernel.hostname",
    "net",
    "",
    "net..x",
    "net.ipv4/../kernel.panic",
    "net/../kernel/core_pattern",
    "net./.x",
  ]) {
    assert.ok("error" in path(name), name);
  }
  for (const [name, needed] of [
    ["net.core.somaxconn", "network"],
    ["kernel.sem", "ipc"],
    ["kernel.domainname", "uts"],
    ["user.max_mnt_namespaces", "user"],
  ] as const) {
    const answer = sysctlFile(name, new Set());
    assert.ok("error" in answer && answer.error.includes(`needs a ${needed} namespace`), name);
  }
});

test("no sysctl name leads out of sys/", () => {
  const all = new Set(["ipc", "network", "uts", "user"] as const);
  const part = fc.constantFrom("..", ".", "/", "net", "kernel", "ipv4", "", "...", "a");
  fc.assert(
    fc.property(fc.array(part, { minLength: 1, maxLength: 6 }), fc.constantFrom(".", "/"), (parts, separator) => {
      const file = sysctlFile(parts.join(separator), all);
      if ("path" in file)
        assert.ok(!file.path.split("/").some((one) => one === ".." || one === "." || one === ""), file.path);
    }),
  );
});

test("mount options become attributes, propagation and data", () => {
  const options = parseMountOptions(["rbind", "ro", "nosuid", "rprivate", "mode=755", "noatime", "rnodev"]);
  assert.equal(options.set, MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID | MOUNT_ATTR.NOATIME);
  assert.equal(options.clear, MOUNT_ATTR.ATIME);
  assert.equal(options.recursiveSet, MOUNT_ATTR.NODEV);
  assert.deepEqual(options.propagation, { flag: MS.PRIVATE, recursive: true });
  assert.equal(options.bind, "rbind");
  assert.deepEqual(options.data, ["mode=755"]);
});

test("the last of contradicting options wins, and a set bit is never cleared too", () => {
  assert.deepEqual(pick(parseMountOptions(["ro", "rw"])), [0n, MOUNT_ATTR.RDONLY]);
  assert.deepEqual(pick(parseMountOptions(["rw", "ro"])), [MOUNT_ATTR.RDONLY, 0n]);
  assert.deepEqual(pick(parseMountOptions(["noatime", "strictatime"])), [MOUNT_ATTR.STRICTATIME, MOUNT_ATTR.ATIME]);
  const option = fc.constantFrom(
    "ro",
    "rw",
    "nosuid",
    "suid",
    "noexec",
    "exec",
    "noatime",
    "relatime",
    "strictatime",
    "nodiratime",
    "diratime",
  );
  fc.assert(
    fc.property(fc.array(option), (list) => {
      const [set, clear] = pick(parseMountOptions(list));
      assert.equal(set & clear & ~MOUNT_ATTR.ATIME, 0n);
      // mount_setattr(2): any access-time bit needs the whole field in attr_clr.
      if (set & MOUNT_ATTR.ATIME) assert.equal(clear & MOUNT_ATTR.ATIME, MOUNT_ATTR.ATIME);
    }),
  );
});

test("a bind's flags replace its source's; its access-time setting only where one is named", () => {
  const plain = MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC | MOUNT_ATTR.NOSYMFOLLOW;
  const change = (...options: string[]) => parseMountOptions(["bind", "rprivate", ...options]).change;
  assert.equal(change(), undefined);
  assert.deepEqual(change("nosuid", "rw"), {
    set: MOUNT_ATTR.NOSUID,
    clear: plain & ~MOUNT_ATTR.NOSUID,
    refuse: MOUNT_ATTR.RDONLY,
  });
  assert.deepEqual(change("sync"), { set: 0n, clear: plain, refuse: 0n });
  for (const undone of ["atime", "norelatime", "nostrictatime", "diratime"])
    assert.deepEqual(change(undone), { set: 0n, clear: plain, refuse: 0n }, undone);
  const atime = (...options: string[]) => {
    const { set = 0n, clear = 0n } = change(...options) ?? {};
    assert.equal(clear & MOUNT_ATTR.ATIME, MOUNT_ATTR.ATIME);
    return set;
  };
  assert.equal(atime("noatime", "strictatime"), MOUNT_ATTR.STRICTATIME);
  assert.equal(atime("nodiratime"), MOUNT_ATTR.NODIRATIME);
  assert.equal(atime("relatime"), 0n);
  assert.equal(atime("noatime", "nodiratime", "norelatime"), MOUNT_ATTR.NOATIME | MOUNT_ATTR.NODIRATIME);
});

function pick({ set, clear }: { set: bigint; clear: bigint }): [bigint, bigint] {
  return [set, clear];
}

test("recursive read-only, and words that only look like options", () => {
  assert.equal(parseMountOptions(["rro"]).recursiveSet, MOUNT_ATTR.RDONLY);
  assert.deepEqual(parseMountOptions(["toString", "constructor", "rtoString"]).data, [
    "toString",
    "constructor",
    "rtoString",
  ]);
  assert.deepEqual(parseMountOptions(["defaults", "_netdev"]).data, []);
  assert.deepEqual(fileSystemData(["sync", "size=1m"]), ["size=1m"]);
});

test("mountinfo with optional fields and escaped paths", () => {
  const [one, two] = parseMountInfo(
    "36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n22 27 0:21 / /proc rw - proc proc rw\n",
  );
  assert.deepEqual(one, {
    id: 36,
    parent: 35,
    device: "98:0",
    root: "/mnt1",
    target: "/mnt two",
    options: ["rw", "noatime"],
    propagation: ["master:1", "shared:2"],
    fstype: "ext3",
    source: "/dev/root",
    superOptions: ["rw", "errors=continue"],
  });
  assert.deepEqual(two?.propagation, []);
  assert.throws(() => parseMountInfo("nonsense"), /mountinfo/);
});

test("mounts of some file systems, whatever else their lines say", () => {
  const text = `1 0 0:1 / / rw - ext4 /dev/a rw
2 1 0:2 / /a\\040-\\040cgroup\\040 rw - tmpfs cgroup rw
3 1 0:3 / /cpu rw shared:1 - cgroup cgroup rw,cpu
4 1 0:4 / /two rw - cgroup2 none rw
5 1 0:5 / /fuse rw - fuse.cgroup - cgroup rw
`;
  const targets = (...fstypes: string[]): string[] => mountsOf(text, ...fstypes).map(({ target }) => target);
  assert.deepEqual(targets("cgroup"), ["/cpu"]);
  assert.deepEqual(targets("cgroup", "cgroup2"), ["/cpu", "/two"]);
  assert.deepEqual(targets("resctrl"), []);
});

test("mount points by exact path", async () => {
  assert.equal(await isMountpoint("/proc"), true);
  assert.equal(await isMountpoint("/proc/self"), false);
});

test("id maps", () => {
  const maps = [
    { containerID: 0, hostID: 100_000, size: 65_536 },
    { containerID: 65_536, hostID: 0, size: 1 },
  ];
  assert.equal(idMapText(maps), "0 100000 65536\n65536 0 1\n");
  assert.equal(hostId(maps, 1000), 101_000);
  assert.equal(hostId(maps, 65_536), 0);
  assert.equal(hostId(maps, 65_537), undefined);
  assert.equal(overlap(maps), undefined);
  assert.deepEqual(overlap([...maps, { containerID: 10, hostID: 5, size: 1 }])?.[1].containerID, 10);
});

test("kernel versions", () => {
  assert.deepEqual(parseKernelVersion("6.1.0-28-amd64"), [6, 1]);
  assert.throws(() => parseKernelVersion("six"));
  assert.ok(atLeast([6, 7], 6, 7) && atLeast([7, 0], 6, 7) && !atLeast([6, 6], 6, 7) && !atLeast([5, 15], 6, 7));
});
