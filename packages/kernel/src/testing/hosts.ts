/** Machines to plan for, without being on them. */
import type { HostFacts } from "../host.ts";

const FEATURES = {
  openat2: true,
  mountApi: true,
  mountSetattr: true,
  lowerdirPlus: true,
  lowerdirFd: true,
  cloneIntoCgroup: true,
  cgroupKill: true,
  overlayIndex: true,
};
const ALL_CAPABILITIES = (1n << 41n) - 1n;

const COMMON = {
  kernel: { release: "6.18.0", version: [6, 18] },
  features: FEATURES,
  capabilities: { effective: ALL_CAPABILITIES, bounding: ALL_CAPABILITIES, last: 40 },
  rlimits: { RLIMIT_NOFILE: { soft: 1024n, hard: 524_288n } },
  oomScoreAdj: 0,
  apparmor: false,
  selinux: false,
  warnings: [],
} as const;

/** v1 controllers with a cgroup2 mount beside them. */
export function hybridHost(): HostFacts {
  const at = (name: string, ...controllers: string[]) => ({ mountpoint: `/sys/fs/cgroup/${name}`, controllers });
  return {
    ...COMMON,
    cgroups: {
      mode: "hybrid",
      v1: [
        at("cpu,cpuacct", "cpu", "cpuacct"),
        at("cpuset", "cpuset"),
        at("memory", "memory"),
        at("devices", "devices"),
        at("freezer", "freezer"),
        at("blkio", "blkio"),
        at("pids", "pids"),
        at("systemd", "name=systemd"),
      ],
      unified: { mountpoint: "/sys/fs/cgroup/unified", controllers: ["hugetlb"] },
      swap: true,
      bfq: false,
    },
  };
}

export function v2Host(): HostFacts {
  return {
    ...COMMON,
    cgroups: {
      mode: "v2",
      v1: [],
      unified: {
        mountpoint: "/sys/fs/cgroup",
        controllers: ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"],
      },
      swap: true,
      bfq: false,
    },
  };
}
