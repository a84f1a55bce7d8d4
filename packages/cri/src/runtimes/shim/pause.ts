/** The container that holds a pod for a shim: berth's own, one process that waits, in a root file system with nothing else in it. */
import { randomBytes } from "node:crypto";
import { chmod, copyFile, mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cri, type oci } from "@berth/spec";
import { cgroupOf, cgroupsPathOf } from "../../cgroups.ts";
import { passedThrough } from "../../container/handler-spec.ts";
import type { CriContext } from "../../context.ts";
import type { RuntimeHandler } from "../../handlers.ts";
import { exists } from "../../presence.ts";
import { podFile } from "../../sandbox/files.ts";
import {
  hostnameOf,
  ipcPath,
  netnsPath,
  podNamespaces,
  shmPath,
  usernsPath,
  utsPath,
} from "../../sandbox/namespaces.ts";
import type { Sandbox } from "../../store/records.ts";
import { withinHost } from "../oci-command.ts";

const { NamespaceMode } = cri;

/** With the program, which is bosun; made once. On the disk: what is in /run may not be executable. */
export async function pauseRoot({ paths }: CriContext): Promise<string> {
  const root = join(paths.root, "pause");
  const program = join(root, "pause");
  if (await exists(program)) return root;
  await mkdir(root, { recursive: true, mode: 0o755 });
  for (const mountPoint of ["proc", "dev", "sys", "etc"]) await mkdir(join(root, mountPoint), { recursive: true });
  await writeFile(join(root, "etc/resolv.conf"), "");
  const made = `${program}.${randomBytes(4).toString("hex")}`;
  await copyFile(paths.bosun, made);
  await chmod(made, 0o755);
  await rename(made, program);
  return root;
}

/** As containerd makes its sandbox container's. */
export function pauseSpec(context: CriContext, handler: RuntimeHandler, sandbox: Sandbox): oci.Spec {
  const { record } = sandbox;
  const { config, id } = record;
  const ns = podNamespaces(config);
  const spec: oci.Spec = {
    ociVersion: "1.0.2",
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: ["/pause", "pause"],
      env: ["PATH=/"],
      cwd: "/",
      capabilities: { bounding: [], effective: [], permitted: [] },
      noNewPrivileges: true,
      oomScoreAdj: Math.max(-998, context.host.oomScoreAdj),
    },
    root: { path: "rootfs", readonly: true },
    ...(!ns.hostNetwork && { hostname: hostnameOf(config) }),
    mounts: mountsOf(context, sandbox),
    annotations: annotationsOf(handler, sandbox),
    linux: {
      namespaces: namespacesOf(context, sandbox),
      cgroupsPath: cgroupsPathOf(cgroupOf(context, record, id), id),
      resources: { cpu: { shares: 2 }, devices: [{ allow: false, access: "rwm" }] },
      maskedPaths: ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
      readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
  };
  return withinHost(spec, context.host, ns.userns);
}

function mountsOf(context: CriContext, { record }: Sandbox): oci.Mount[] {
  const ns = podNamespaces(record.config);
  const options = ["nosuid", "noexec", "nodev"];
  return [
    { destination: "/proc", type: "proc", source: "proc", options },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: [...options, "ro"] },
    // Shims that make the pod's shared memory themselves look for it here.
    {
      destination: "/dev/shm",
      type: "bind",
      source: shmPath(context, record.id, ns),
      options: ["rbind", "ro", ...options],
    },
    {
      destination: "/etc/resolv.conf",
      type: "bind",
      source: podFile(context, record.id, "resolv.conf"),
      options: ["rbind", "ro", ...options],
    },
  ];
}

function namespacesOf(context: CriContext, { record }: Sandbox): oci.LinuxNamespace[] {
  const ns = podNamespaces(record.config);
  const pid = record.config.linux?.securityContext?.namespaceOptions?.pid ?? NamespaceMode.POD;
  return [
    { type: "mount" },
    ...(pid === NamespaceMode.NODE ? [] : [{ type: "pid" } as const]),
    ...(ns.hostNetwork
      ? []
      : ([
          { type: "network", path: netnsPath(context, record.id) },
          { type: "uts", path: utsPath(context, record.id) },
        ] as const)),
    ...(ns.hostIpc ? [] : [{ type: "ipc", path: ipcPath(context, record.id) } as const]),
    ...(ns.userns ? [{ type: "user", path: usernsPath(context, record.id) } as const] : []),
  ];
}

function annotationsOf(
  { podAnnotations }: RuntimeHandler,
  { record: { config, id } }: Sandbox,
): Record<string, string> {
  const { metadata, logDirectory, linux } = config;
  const resources = linux?.resources;
  return {
    ...passedThrough(config.annotations, podAnnotations),
    "io.kubernetes.cri.container-type": "sandbox",
    "io.kubernetes.cri.sandbox-id": id,
    "io.kubernetes.cri.sandbox-name": metadata?.name ?? "",
    "io.kubernetes.cri.sandbox-namespace": metadata?.namespace ?? "",
    "io.kubernetes.cri.sandbox-uid": metadata?.uid ?? "",
    "io.kubernetes.cri.sandbox-log-directory": logDirectory,
    "io.kubernetes.cri.sandbox-cpu-period": String(resources?.cpuPeriod ?? 0n),
    "io.kubernetes.cri.sandbox-cpu-quota": String(resources?.cpuQuota ?? 0n),
    "io.kubernetes.cri.sandbox-cpu-shares": String(resources?.cpuShares ?? 0n),
    "io.kubernetes.cri.sandbox-memory": String(resources?.memoryLimitInBytes ?? 0n),
  };
}
