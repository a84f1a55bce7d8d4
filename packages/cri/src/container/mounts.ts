/** A container's mounts: the file systems every container has, the pod's files, and the volumes that were asked for. */
import { readFile, realpath, stat } from "node:fs/promises";
import { type MountInfo, isMountpoint, parseMountInfo } from "@berth/kernel";
import { cri, type oci } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid } from "../errors.ts";
import { podFile } from "../sandbox/files.ts";
import { podNamespaces, shmPath } from "../sandbox/namespaces.ts";
import { ociMapping } from "../sandbox/userns.ts";
import type { SandboxRecord } from "../store/records.ts";
import type { ImageSources } from "./image-volumes.ts";

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
  images: ImageSources,
): Promise<oci.Mount[]> {
  const security = config.linux?.securityContext;
  const wanted = await Promise.all(
    config.mounts.map((mount, index) => volume(mount, `mounts[${index}]`, images.get(index))),
  );
  const taken = new Set(wanted.map((mount) => mount.destination));
  const own = [
    ...standardMounts(security?.privileged === true, cgroupWritable),
    ...(await messageQueues(sandbox.config)),
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
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", access] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", "relatime", privileged || cgroupWritable ? "rw" : "ro"],
    },
  ];
}

/** The IPC namespace's owner alone may mount its queues: with the host's, a pod in a user namespace sees the host's mount, if there is one. */
async function messageQueues(config: cri.PodSandboxConfig): Promise<oci.Mount[]> {
  const destination = "/dev/mqueue";
  const options = ["nosuid", "noexec", "nodev"];
  const { hostIpc, userns } = podNamespaces(config);
  if (!hostIpc || !userns) return [{ destination, type: "mqueue", source: "mqueue", options }];
  if (!(await isMountpoint(destination))) return [];
  return [{ destination, type: "bind", source: destination, options: ["bind", "rprivate", ...options] }];
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

/** `image`: where the image that is to be mounted is. */
async function volume(mount: cri.Mount, field: string, image: string | undefined): Promise<oci.Mount> {
  if (!mount.containerPath.startsWith("/"))
    throw invalid(`config.${field}.container_path: "${mount.containerPath}" is not an absolute path`);
  if (mount.recursiveReadOnly && !mount.readonly) throw invalid(`config.${field}.recursive_read_only: needs readonly`);
  if (mount.recursiveReadOnly && mount.propagation !== cri.MountPropagation.PROPAGATION_PRIVATE) {
    throw invalid(`config.${field}.recursive_read_only: needs private propagation`);
  }
  if (image !== undefined) return imageMount(mount, image);
  if (mount.imageSubPath !== "") throw invalid(`config.${field}.image_sub_path: needs an image`);
  const source = await resolveSource(mount.hostPath, field);
  const propagation = PROPAGATION[mount.propagation];
  if (propagation === undefined)
    throw invalid(`config.${field}.propagation: ${mount.propagation} is not a propagation`);
  await checkPropagation(mount, source, field);
  const idmap = idmapOf(mount, field);
  const access = mount.recursiveReadOnly ? "rro" : mount.readonly ? "ro" : "rw";
  const options = ["rbind", propagation, access, ...("uidMappings" in idmap ? ["idmap"] : [])];
  return { destination: mount.containerPath, type: "bind", source, options, ...idmap };
}

/** KEP-4639: read-only. Its programs may be executed, as the conformance suite asks; set-uid bits count for nothing. */
const imageMount = (mount: cri.Mount, source: string): oci.Mount => ({
  destination: mount.containerPath,
  type: "bind",
  source,
  options: ["bind", "rprivate", "ro", "nosuid", "nodev", "exec"],
});

/** What the host's mount does not pass on cannot arrive (mount_namespaces(7)): silence about it would be a volume that never fills. */
async function checkPropagation({ propagation }: cri.Mount, source: string, field: string): Promise<void> {
  const { PROPAGATION_BIDIRECTIONAL, PROPAGATION_HOST_TO_CONTAINER } = cri.MountPropagation;
  if (propagation !== PROPAGATION_BIDIRECTIONAL && propagation !== PROPAGATION_HOST_TO_CONTAINER) return;
  const wanted = propagation === PROPAGATION_BIDIRECTIONAL ? "rshared" : "rslave";
  await checkPassesOn(source, wanted, `config.${field}.propagation`);
}

/** Rejects with InvalidArgument where mounts below `source` do not propagate so. */
export async function checkPassesOn(source: string, wanted: "rshared" | "rslave", field: string): Promise<void> {
  const mounts = parseMountInfo(await readFile("/proc/self/mountinfo", "utf8"));
  const holds = ({ target }: MountInfo): boolean => target === "/" || `${source}/`.startsWith(`${target}/`);
  // Of several at one place the last covers the others.
  const [over] = mounts.filter(holds).sort((a, b) => b.target.length - a.target.length || b.id - a.id);
  const kinds = wanted === "rshared" ? ["shared:"] : ["shared:", "master:"];
  if (over?.propagation.some((one) => kinds.some((kind) => one.startsWith(kind)))) return;
  throw invalid(
    `${field}: "${source}" is on the mount ${over?.target ?? "/"}, which is not a shared mount; mount --make-rshared ${over?.target ?? "/"}`,
  );
}

/** Which of the source's owners are whose inside (mount_setattr(2), MOUNT_ATTR_IDMAP); not of what is mounted below it. */
function idmapOf({ uidMappings, gidMappings }: cri.Mount, field: string): Partial<oci.Mount> {
  if (uidMappings.length === 0 && gidMappings.length === 0) return {};
  if (uidMappings.length === 0 || gidMappings.length === 0)
    throw invalid(`config.${field}.uidMappings: a mount's uids and gids are mapped together; give gidMappings too`);
  return { uidMappings: uidMappings.map(ociMapping), gidMappings: gidMappings.map(ociMapping) };
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
