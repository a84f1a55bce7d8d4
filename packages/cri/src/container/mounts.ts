/** A container's mounts: the file systems every container has, the pod's files, and the volumes that were asked for. */
import { realpath, stat } from "node:fs/promises";
import { cri, type oci } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid, unimplemented } from "../errors.ts";
import { podFile } from "../sandbox/files.ts";
import { podNamespaces, shmPath } from "../sandbox/namespaces.ts";
import type { SandboxRecord } from "../store/records.ts";

const PROPAGATION: Readonly<Record<cri.MountPropagation, string>> = {
  [cri.MountPropagation.PROPAGATION_PRIVATE]: "rprivate",
  [cri.MountPropagation.PROPAGATION_HOST_TO_CONTAINER]: "rslave",
  [cri.MountPropagation.PROPAGATION_BIDIRECTIONAL]: "rshared",
};

export async function mountsOf(
  context: CriContext,
  sandbox: SandboxRecord,
  config: cri.ContainerConfig,
  cgroupWritable: boolean,
): Promise<oci.Mount[]> {
  const security = config.linux?.securityContext;
  const wanted = await Promise.all(config.mounts.map((mount, index) => volume(mount, `mounts[${index}]`)));
  const taken = new Set(wanted.map((mount) => mount.destination));
  const own = [
    ...standardMounts(security?.privileged === true, cgroupWritable),
    ...podMounts(context, sandbox, security?.readonlyRootfs === true),
  ];
  // Parents before children: a volume at /data must not hide one at /data/cache, whatever the order in which they were named.
  wanted.sort((a, b) => depth(a.destination) - depth(b.destination));
  return [...own.filter((mount) => !taken.has(mount.destination)), ...wanted];
}

const depth = (path: string): number => path.split("/").filter((part) => part !== "").length;

/** runtime-spec "default filesystems", with the options that container engines give them. */
function standardMounts(privileged: boolean, cgroupWritable: boolean): oci.Mount[] {
  const access = privileged ? "rw" : "ro";
  return [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", access] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", "relatime", privileged || cgroupWritable ? "rw" : "ro"],
    },
  ];
}

function podMounts(context: CriContext, sandbox: SandboxRecord, readonlyRootfs: boolean): oci.Mount[] {
  const access = readonlyRootfs ? "ro" : "rw";
  const file = (name: "hosts" | "hostname" | "resolv.conf"): oci.Mount => ({
    destination: `/etc/${name}`,
    type: "bind",
    source: podFile(context, sandbox.id, name),
    options: ["rbind", "rprivate", access],
  });
  const shm = shmPath(context, sandbox.id, podNamespaces(sandbox.config));
  return [
    file("hosts"),
    file("hostname"),
    file("resolv.conf"),
    { destination: "/dev/shm", type: "bind", source: shm, options: ["rbind", "rprivate", "rw"] },
  ];
}

async function volume(mount: cri.Mount, field: string): Promise<oci.Mount> {
  if (mount.image?.image)
    throw unimplemented(`config.${field}.image: image volumes are not supported by this version of berth`);
  if (mount.uidMappings.length > 0 || mount.gidMappings.length > 0) {
    throw unimplemented(`config.${field}.uid_mappings: id-mapped mounts are not supported by this version of berth`);
  }
  if (!mount.containerPath.startsWith("/"))
    throw invalid(`config.${field}.container_path: "${mount.containerPath}" is not an absolute path`);
  if (mount.recursiveReadOnly && !mount.readonly) throw invalid(`config.${field}.recursive_read_only: needs readonly`);
  if (mount.recursiveReadOnly && mount.propagation !== cri.MountPropagation.PROPAGATION_PRIVATE) {
    throw invalid(`config.${field}.recursive_read_only: needs private propagation`);
  }
  const source = await resolveSource(mount.hostPath, field);
  const propagation = PROPAGATION[mount.propagation];
  if (propagation === undefined)
    throw invalid(`config.${field}.propagation: ${mount.propagation} is not a propagation`);
  const options = ["rbind", propagation, mount.recursiveReadOnly ? "rro" : mount.readonly ? "ro" : "rw"];
  return { destination: mount.containerPath, type: "bind", source, options };
}

/** The CRI: a link's target is what is mounted, and a path that does not exist is an error. */
async function resolveSource(path: string, field: string): Promise<string> {
  if (!path.startsWith("/")) throw invalid(`config.${field}.host_path: "${path}" is not an absolute path`);
  try {
    const resolved = await realpath(path);
    await stat(resolved);
    return resolved;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      throw invalid(
        `config.${field}.host_path: "${path}" does not exist on the node; create it, or use a hostPath volume of type DirectoryOrCreate`,
      );
    }
    throw error;
  }
}
