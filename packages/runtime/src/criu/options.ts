/** What a checkpoint or restore is asked for, in the names of runc's flags, and what both requests to CRIU have in common. */
import { CLONE } from "@berth/kernel";
import { CgroupsMode, type Options } from "@berth/spec/criu";
import type { oci } from "@berth/spec";
import { PlanError } from "../context.ts";

export interface CriuOptions {
  readonly tcpEstablished?: boolean | undefined;
  readonly extUnixSk?: boolean | undefined;
  readonly shellJob?: boolean | undefined;
  readonly fileLocks?: boolean | undefined;
  readonly autoDedup?: boolean | undefined;
  readonly lazyPages?: boolean | undefined;
  /** soft, full, strict, ignore; "" or absent: CRIU's default, which is soft. */
  readonly manageCgroupsMode?: string | undefined;
}

/** Where CRIU's files are: descriptors of the `criu` order, by their place in its `open`. */
export interface CriuPlace {
  /** Directory of the images. */
  readonly images: string;
  /** Directory of logs and statistics; absent: the images'. */
  readonly work?: string | undefined;
}

/** The first of `open` is this descriptor (order `criu`). */
export const OPENED = 100;
/** What CRIU is run as; bosun appends the number of its socket. */
export const CRIU = ["criu", "swrk"] as const;
const LOG_LEVEL = 4;

const MODES: Readonly<Record<string, CgroupsMode>> = {
  "": CgroupsMode.DEFAULT,
  soft: CgroupsMode.SOFT,
  full: CgroupsMode.FULL,
  strict: CgroupsMode.STRICT,
  ignore: CgroupsMode.IGNORE,
};

/** Throws PlanError for a mode that is none. */
export function cgroupsMode(name = ""): CgroupsMode {
  const mode = MODES[name];
  if (mode === undefined) throw new PlanError("manage-cgroups-mode", "invalid manage-cgroups-mode value");
  return mode;
}

export function openedPaths({ images, work }: CriuPlace): string[] {
  return work === undefined ? [images] : [images, work];
}

export function commonOptions(spec: oci.Spec, place: CriuPlace, options: CriuOptions, logFile: string): Options {
  const { "org.criu.config": configFile = "/etc/criu/runc.conf" } = spec.annotations ?? {};
  return {
    imagesDirFd: OPENED,
    ...(place.work === undefined ? {} : { workDirFd: OPENED + 1 }),
    logLevel: LOG_LEVEL,
    logFile,
    notifyScripts: true,
    manageCgroups: true,
    manageCgroupsMode: cgroupsMode(options.manageCgroupsMode),
    tcpEstablished: options.tcpEstablished ?? false,
    extUnixSk: options.extUnixSk ?? false,
    shellJob: options.shellJob ?? false,
    fileLocks: options.fileLocks ?? false,
    autoDedup: options.autoDedup ?? false,
    lazyPages: options.lazyPages ?? false,
    orphanPtsMaster: true,
    // What is inside a network namespace is who made it's to restore.
    emptyNs: Number(CLONE.NEWNET),
    ...(configFile === "" ? {} : { configFile }),
  };
}

/** Namespaces that CRIU takes as they are, by descriptor (criu.org/External_net_namespaces); the name is runc's. */
export const INHERITED: Partial<Record<oci.NamespaceType, { readonly kind: string; readonly key: string }>> = {
  network: { kind: "net", key: "extRootNetNS" },
  pid: { kind: "pid", key: "extRootPidNS" },
};
