/** features: what this runtime knows, whatever the host has (features.md of the runtime specification). */
import { capabilityNames, MEMORY_POLICIES, MEMORY_POLICY_FLAGS, mountOptionNames } from "@berth/kernel";
import { oci } from "@berth/spec/oci";
import { readFileSync } from "node:fs";
import type { Command } from "../command/context.ts";

const INDENT = 4;
const ACTIONS = ["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP"];
const OPERATORS = ["EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE"];
const ARCHITECTURES =
  "AARCH64 ARM MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 PPC PPC64 PPC64LE RISCV64 S390 S390X X32 X86 X86_64";
const FLAGS = ["TSYNC", "SPEC_ALLOW", "LOG", "WAIT_KILLABLE_RECV"].map((name) => `SECCOMP_FILTER_FLAG_${name}`);

export const command: Command = {
  run({ out }) {
    out(`${JSON.stringify(features(), null, INDENT)}\n`);
    return 0;
  },
};

/** As `features` prints them. */
export function features(): Record<string, unknown> {
  const file = new URL("../../package.json", import.meta.url);
  const { version } = JSON.parse(readFileSync(file, "utf8")) as { version: string };
  return {
    ociVersionMin: "1.0.0",
    ociVersionMax: oci.SPEC_VERSION,
    hooks: ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
    mountOptions: mountOptionNames(),
    linux: {
      namespaces: [...oci.NAMESPACE_TYPES].sort(),
      capabilities: capabilityNames(),
      cgroup: { v1: true, v2: true, systemd: true, systemdUser: false, rdma: true },
      seccomp: {
        enabled: true,
        actions: ACTIONS.map((name) => `SCMP_ACT_${name}`),
        operators: OPERATORS.map((name) => `SCMP_CMP_${name}`),
        archs: ARCHITECTURES.split(" ").map((name) => `SCMP_ARCH_${name}`),
        knownFlags: FLAGS,
        supportedFlags: FLAGS,
      },
      apparmor: { enabled: true },
      selinux: { enabled: true },
      intelRdt: { enabled: true, schemata: true },
      memoryPolicy: {
        modes: Object.keys(MEMORY_POLICIES).sort(),
        flags: Object.keys(MEMORY_POLICY_FLAGS).sort(),
      },
      mountExtensions: { idmap: { enabled: true } },
      netDevices: { enabled: true },
    },
    annotations: { "io.berth.version": version },
    potentiallyUnsafeConfigAnnotations: ["bundle", "org.systemd.property.", "org.criu.config"],
  };
}
