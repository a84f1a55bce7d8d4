/** The OCI configuration of a container: image config + CRI config, as one pure value but for what must be looked up on the host. */
import { clampRlimit } from "@berth/kernel";
import { cri, type oci } from "@berth/spec";
import type { ImageRecord } from "@berth/image";
import type { CriContext } from "../context.ts";
import { handlerOf } from "../handlers.ts";
import { hostnameOf, podNamespaces } from "../sandbox/namespaces.ts";
import type { Sandbox } from "../store/records.ts";
import { apparmorOf } from "./apparmor.ts";
import { capabilitiesOf } from "./capabilities.ts";
import { devicesOf } from "./devices.ts";
import { baseSpecOf, onBase, passedThrough } from "./handler-spec.ts";
import type { ImageSources } from "./image-volumes.ts";
import { mountsOf } from "./mounts.ts";
import { namespacesOf } from "./namespaces.ts";
import { argvOf, cwdOf, environmentOf } from "./process.ts";
import { resourcesOf } from "./resources.ts";
import { seccompOf } from "./seccomp.ts";
import type { ResolvedUser } from "./user.ts";

export interface SpecInput {
  readonly id: string;
  readonly sandbox: Sandbox;
  readonly config: cri.ContainerConfig;
  readonly image: ImageRecord;
  readonly user: ResolvedUser;
  readonly cgroupsPath: string;
  readonly imageSources: ImageSources;
}

export async function ociSpec(context: CriContext, input: SpecInput): Promise<oci.Spec> {
  const { sandbox, config } = input;
  const security = config.linux?.securityContext;
  const handler = handlerOf(context, sandbox.record.handler);
  const base = await baseSpecOf(handler);
  const capabilities = capabilitiesOf(security, base?.process?.capabilities?.bounding);
  const [mounts, { devices, rules }, seccomp, apparmorProfile] = await Promise.all([
    mountsOf(context, sandbox.record, config, handler.cgroupWritable, input.imageSources),
    devicesOf(config, handler, context.config.deviceOwnershipFromSecurityContext ? ownerOf(security) : undefined),
    seccompOf(security, capabilities.bounding ?? [], context.config.unsetSeccompProfile),
    apparmorOf(context, security),
  ]);
  return onBase(base, {
    ociVersion: "1.3.0",
    process: { ...processOf(context, input, capabilities), ...(apparmorProfile !== undefined && { apparmorProfile }) },
    root: { path: "rootfs", readonly: security?.readonlyRootfs === true },
    mounts,
    annotations: {
      ...passedThrough(sandbox.record.config.annotations, handler.podAnnotations),
      ...passedThrough(config.annotations, handler.containerAnnotations),
      ...annotationsOf(input),
    },
    linux: {
      namespaces: namespacesOf(context, sandbox, config),
      cgroupsPath: input.cgroupsPath,
      resources: { ...resourcesOf(context, config.linux?.resources), devices: rules },
      devices,
      ...(seccomp && { seccomp }),
      maskedPaths: security?.privileged ? [] : [...(security?.maskedPaths ?? [])],
      readonlyPaths: security?.privileged ? [] : [...(security?.readonlyPaths ?? [])],
      ...rootfsPropagation(config),
    },
  });
}

function processOf(
  context: CriContext,
  { config, image, user, sandbox }: SpecInput,
  capabilities: oci.LinuxCapabilities,
): oci.Process {
  const security = config.linux?.securityContext;
  const hostname = podNamespaces(sandbox.record.config).hostNetwork ? "" : hostnameOf(sandbox.record.config);
  const env = environmentOf(config, image.config, hostname);
  if (!env.some((entry) => entry.startsWith("HOME=")))
    env.push(`HOME=${user.home ?? (user.uid === 0 ? "/root" : "/")}`);
  const oomScoreAdj = oomScoreAdjOf(context, config.linux?.resources);
  return {
    terminal: config.tty,
    user: { uid: user.uid, gid: user.gid, additionalGids: [...user.additionalGids] },
    args: argvOf(config, image.config),
    env,
    cwd: cwdOf(config, image.config),
    capabilities,
    noNewPrivileges: security?.noNewPrivs === true,
    rlimits: [clampRlimit("RLIMIT_NOFILE", 1_048_576)],
    ...(oomScoreAdj !== undefined && { oomScoreAdj }),
  };
}

function oomScoreAdjOf(
  { config, host }: CriContext,
  resources: cri.LinuxContainerResources | undefined,
): number | undefined {
  // berthd's own, which may keep it from being killed, is nobody else's.
  if (!resources) return host.oomScoreAdj < 0 ? 0 : undefined;
  const asked = Number(resources.oomScoreAdj);
  return config.restrictOomScoreAdj ? Math.max(asked, host.oomScoreAdj) : asked;
}

/** Only a numeric user says whose devices are to be; run_as_user 0 is the host's owner anyway. */
function ownerOf(security: cri.LinuxContainerSecurityContext | undefined): { uid: number; gid: number } | undefined {
  if (!security?.runAsUser) return undefined;
  return { uid: Number(security.runAsUser.value), gid: Number(security.runAsGroup?.value ?? 0n) };
}

/** A volume that propagates needs a root mount that does (mount_namespaces(7)). */
function rootfsPropagation(config: cri.ContainerConfig): { rootfsPropagation?: string } {
  const { PROPAGATION_BIDIRECTIONAL, PROPAGATION_HOST_TO_CONTAINER } = cri.MountPropagation;
  if (config.mounts.some((mount) => mount.propagation === PROPAGATION_BIDIRECTIONAL))
    return { rootfsPropagation: "rshared" };
  if (config.mounts.some((mount) => mount.propagation === PROPAGATION_HOST_TO_CONTAINER))
    return { rootfsPropagation: "rslave" };
  return {};
}

/** What containerd's CRI writes into a config.json, for hooks and runtimes that look for it. */
function annotationsOf({ id, sandbox, config }: SpecInput): Record<string, string> {
  const metadata = sandbox.record.config.metadata;
  return {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": config.metadata?.name ?? "",
    "io.kubernetes.cri.container-id": id,
    "io.kubernetes.cri.image-name": config.image?.userSpecifiedImage || (config.image?.image ?? ""),
    "io.kubernetes.cri.sandbox-id": sandbox.record.id,
    "io.kubernetes.cri.sandbox-name": metadata?.name ?? "",
    "io.kubernetes.cri.sandbox-namespace": metadata?.namespace ?? "",
    "io.kubernetes.cri.sandbox-uid": metadata?.uid ?? "",
  };
}
