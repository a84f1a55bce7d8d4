/** Requests to a guest as its policy sees them: JSON by the names of Kata's agent.proto, as far as berth has what is in them. */
import type { oci } from "@berth/spec";
import type { Value } from "./syntax.ts";

export interface PolicyContainer {
  readonly id: string;
  /** Its paths are the guest's. */
  readonly spec: oci.Spec;
}

const texts = (values: readonly string[] | undefined): Value => [...(values ?? [])];

function processOf(process: oci.Process): Value {
  const { user, capabilities } = process;
  return {
    Terminal: process.terminal === true,
    User: { UID: user.uid, GID: user.gid, AdditionalGids: [...(user.additionalGids ?? [])], Username: "" },
    Args: texts(process.args),
    Env: texts(process.env),
    Cwd: process.cwd,
    Capabilities: {
      Bounding: texts(capabilities?.bounding),
      Effective: texts(capabilities?.effective),
      Inheritable: texts(capabilities?.inheritable),
      Permitted: texts(capabilities?.permitted),
      Ambient: texts(capabilities?.ambient),
    },
    NoNewPrivileges: process.noNewPrivileges === true,
    ApparmorProfile: "",
    OOMScoreAdj: process.oomScoreAdj ?? 0,
    SelinuxLabel: "",
  };
}

export function createContainer({ id, spec }: PolicyContainer): Value {
  const { linux, process, root, mounts = [] } = spec;
  return {
    container_id: id,
    exec_id: id,
    string_user: null,
    devices: [],
    storages: [],
    sandbox_pidns: linux?.namespaces?.some(({ type, path }) => type === "pid" && (path ?? "") !== "") === true,
    shared_mounts: [],
    OCI: {
      Version: spec.ociVersion,
      Process: process ? processOf(process) : null,
      Root: { Path: root?.path ?? "", Readonly: root?.readonly === true },
      Hostname: spec.hostname ?? "",
      Mounts: mounts.map(({ destination, source = "", type = "", options }) => ({
        destination,
        source,
        type_: type,
        options: texts(options),
      })),
      Hooks: null,
      Annotations: { ...spec.annotations },
      Linux: {
        UIDMappings: [],
        GIDMappings: [],
        Sysctl: { ...linux?.sysctl },
        CgroupsPath: linux?.cgroupsPath ?? "",
        Namespaces: (linux?.namespaces ?? []).map(({ type, path = "" }) => ({ Type: type, Path: path })),
        Devices: (linux?.devices ?? []).map(({ path, type }) => ({ Path: path, Type: type })),
        Seccomp: null,
        RootfsPropagation: linux?.rootfsPropagation ?? "",
        MaskedPaths: texts(linux?.maskedPaths),
        ReadonlyPaths: texts(linux?.readonlyPaths),
        MountLabel: "",
        IntelRdt: null,
      },
      Solaris: null,
      Windows: null,
    },
  };
}

export const execProcess = (id: string, process: oci.Process): Value => ({
  container_id: id,
  exec_id: "",
  string_user: null,
  process: processOf(process),
});

export const ofContainer = (id: string, more: Readonly<Record<string, Value>> = {}): Value => ({
  container_id: id,
  ...more,
});
