/** The hypervisor that a configuration asks for, and its program. */
import { existsSync } from "node:fs";
import type { HypervisorName } from "../configuration/driver-keys.ts";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import type { ClhOptions } from "./clh/config.ts";
import { cloudHypervisor } from "./clh/driver.ts";
import { firecracker } from "./firecracker/driver.ts";
import type { Hypervisor } from "./machine.ts";
import type { MachineType, QemuOptions } from "./qemu/command.ts";
import { qemu } from "./qemu/driver.ts";
import { stratovirt } from "./stratovirt/driver.ts";

const QEMU = ["/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/opt/kata/bin/qemu-system-x86_64"];
const VIRTIOFSD = [
  "/usr/libexec/virtiofsd",
  "/usr/lib/qemu/virtiofsd",
  "/usr/lib/virtiofsd",
  "/opt/kata/libexec/virtiofsd",
];

/** The named one, which must be there, or the first of the usual places. Throws VmError Missing. */
function program(named: string, usual: readonly string[], key: string, what: string): string {
  if (named !== "") {
    if (existsSync(named)) return named;
    throw new VmError("Missing", `${key}: ${named} is not there`);
  }
  const found = usual.find((path) => existsSync(path));
  if (found === undefined)
    throw new VmError(
      "Missing",
      `no ${what} at ${usual.join(", ")}; install it, or name it by ${key} in configuration.toml`,
    );
  return found;
}

const USUAL: Readonly<Record<HypervisorName, readonly [paths: readonly string[], what: string]>> = {
  qemu: [QEMU, "QEMU (Debian: apt-get install qemu-system-x86)"],
  clh: [
    ["/usr/bin/cloud-hypervisor", "/usr/local/bin/cloud-hypervisor", "/opt/kata/bin/cloud-hypervisor"],
    "Cloud Hypervisor",
  ],
  firecracker: [["/usr/bin/firecracker", "/usr/local/bin/firecracker", "/opt/kata/bin/firecracker"], "Firecracker"],
  stratovirt: [["/usr/bin/stratovirt", "/usr/local/bin/stratovirt", "/opt/kata/bin/stratovirt"], "StratoVirt"],
};

export const virtiofsdOf = ({ hypervisor }: VmSettings): string =>
  program(hypervisor.virtio_fs_daemon, VIRTIOFSD, "virtio_fs_daemon", "virtiofsd");

/** Throws VmError. */
export function hypervisorProgram({ name, hypervisor }: VmSettings): string {
  const [paths, what] = USUAL[name];
  return program(hypervisor.path, paths, "path", what);
}

export type Accelerator = "kvm" | "tcg";

const MACHINE_TYPES: readonly string[] = ["q35", "pc", "microvm"] satisfies readonly MachineType[];

/** `accelerator` and `copy` are QEMU's; the others are KVM's alone. Throws VmError. */
export function hypervisorOf(settings: VmSettings, accelerator: Accelerator, copy?: QemuOptions["copy"]): Hypervisor {
  hypervisorProgram(settings);
  switch (settings.name) {
    case "qemu":
      return qemu(qemuOptions(settings, accelerator, copy));
    case "clh":
      return cloudHypervisor(clhOptions(settings));
    case "firecracker":
      return firecracker({
        logLevel: isDebug(settings) ? "Debug" : "Error",
        seccomp: !settings.hypervisor.disable_seccomp,
      });
    case "stratovirt":
      return stratovirt({ logLevel: isDebug(settings) ? "info" : "error" });
  }
}

export function clhOptions(settings: VmSettings): ClhOptions {
  const { hypervisor } = settings;
  return {
    logLevel: isDebug(settings) ? hypervisor.hypervisor_loglevel : 0,
    seccomp: !hypervisor.disable_seccomp,
    iommu: hypervisor.enable_iommu,
    firmware: hypervisor.firmware,
    virtioMem: hypervisor.enable_virtio_mem,
    serial: hypervisor.use_legacy_serial,
  };
}

function qemuOptions(settings: VmSettings, accelerator: Accelerator, copy: QemuOptions["copy"]): QemuOptions {
  const { hypervisor } = settings;
  if (!MACHINE_TYPES.includes(hypervisor.machine_type))
    throw new VmError(
      "Unsupported",
      `machine_type: "${hypervisor.machine_type}" is none of ${MACHINE_TYPES.join(", ")}`,
    );
  return {
    machineType: hypervisor.machine_type as MachineType,
    accelerator,
    machineAccelerators: hypervisor.machine_accelerators,
    cpuFeatures: hypervisor.cpu_features,
    firmware: hypervisor.firmware,
    pflashes: hypervisor.pflashes,
    sandbox: hypervisor.seccompsandbox || hypervisor.seccomp_sandbox,
    bridges: Math.min(5, Math.max(1, hypervisor.default_bridges)),
    rootPorts: Math.max(0, hypervisor.pcie_root_port),
    iommu: hypervisor.enable_iommu,
    iommuPlatform: hypervisor.enable_iommu_platform,
    legacySerial: hypervisor.use_legacy_serial,
    extraMonitor: isDebug(settings) ? hypervisor.extra_monitor_socket : "",
    ...(copy && { copy }),
  };
}

export const isDebug = ({ hypervisor, agent }: VmSettings): boolean => hypervisor.enable_debug || agent.enable_debug;
