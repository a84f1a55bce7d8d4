/** From the options of `berth run` to the CRI's configurations: one pod for each container. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { cri } from "@berth/spec";
import { ANNOTATION, NAME_LABEL } from "../annotations.ts";
import { Failure } from "../failure.ts";
import type { Shell } from "../shell.ts";
import { parseDevice } from "./devices.ts";
import { environment, keyValues } from "./environment.ts";
import type { CreateFlags } from "./flags.ts";
import { limits, storageSize } from "./limits.ts";
import { checkName, randomName } from "./name.ts";
import { formatPort, parsePorts } from "./ports.ts";
import { containerSecurity, podSecurity } from "./security.ts";
import { parseStopSignal } from "./signals.ts";
import { parseVolume } from "./volumes.ts";

type PodConfig = MessageInitShape<typeof cri.PodSandboxConfigSchema>;
type ContainerConfig = MessageInitShape<typeof cri.ContainerConfigSchema>;

export interface RunRequest {
  readonly name: string;
  /** As typed. */
  readonly image: string;
  readonly handler: string;
  pod(logDirectory: string): PodConfig;
  container(image: RunImage): ContainerConfig;
}

export interface RunImage {
  readonly id: string;
  /** The image's own command line, for `ps` to show where the user gives none. */
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
}

/** Namespace (a Kubernetes pod's) of what `berth run` makes. */
export const POD_NAMESPACE = "berth";
/** The log's file below the pod's log directory. */
export const LOG_PATH = "0.log";

/** Checks every option, before anything is asked of berthd. Throws Failure naming the option. */
export function runRequest(
  flags: CreateFlags,
  image: string,
  args: readonly string[],
  shell: Pick<Shell, "env" | "cwd">,
  lifetime: { readonly detach: boolean },
): RunRequest {
  const name = flags.name === undefined ? randomName() : checkName(flags.name);
  const network = flags.network ?? flags.net;
  const security = { ...flags, ...(network !== undefined && { network }) };
  const ports = flags.publish.flatMap(parsePorts);
  const labels = { ...keyValues(flags.label, "--label"), [NAME_LABEL]: name };
  const annotations = annotationsOf(flags, ports.map(formatPort));
  const linux = { resources: limits(flags), securityContext: containerSecurity(security, shell.cwd) };
  const podLinux = { securityContext: podSecurity(security), sysctls: keyValues(flags.sysctl, "--sysctl") };
  const devices = flags.device.map(parseDevice);
  const command = commandOf(flags.entrypoint, args);
  const envs = [...environment(flags, shell.env)].map(([key, value]) => ({ key, value: Buffer.from(value) }));
  const mounts = flags.volume.map((text) => parseVolume(text, shell.cwd));
  if (network === "host" && ports.length > 0)
    throw new Failure("-p makes no sense with --network host: the container's ports are the host's");
  const stopSignal = flags.stopSignal === undefined ? undefined : parseStopSignal(flags.stopSignal);
  const size = storageSize(flags.storageOpt);
  const stdin = flags.interactive === true;
  const tty = flags.tty === true;
  return {
    name,
    image,
    handler: flags.runtime ?? "",
    pod: (logDirectory) => ({
      // The uid is the name, so that berthd's reservation of pod names lets nobody have it twice.
      metadata: { name, uid: name, namespace: POD_NAMESPACE, attempt: 0 },
      hostname: network === "host" ? "" : (flags.hostname ?? ""),
      logDirectory,
      ...(hasDns(flags) && {
        dnsConfig: { servers: [...flags.dns], searches: [...flags.dnsSearch], options: [...flags.dnsOption] },
      }),
      portMappings: ports,
      labels,
      annotations: { ...annotations, ...(flags.rm && lifetime.detach && { [ANNOTATION.autoRemove]: "true" }) },
      linux: podLinux,
    }),
    container: (from) => ({
      metadata: { name, attempt: 0 },
      image: { image: from.id, userSpecifiedImage: image },
      ...command,
      workingDir: flags.workdir ?? "",
      envs,
      mounts,
      devices: devices.flatMap((device) => ("node" in device ? [device.node] : [])),
      CDIDevices: devices.flatMap((device) => ("cdi" in device ? [{ name: device.cdi }] : [])),
      labels,
      annotations: {
        ...annotations,
        [ANNOTATION.command]: JSON.stringify(commandLine(command, from)),
        ...(size !== undefined && { [ANNOTATION.storageSize]: String(size) }),
      },
      logPath: LOG_PATH,
      stdin,
      // A pipe's end ends the container's input; a terminal, or nobody yet, may come back.
      stdinOnce: stdin && !tty && !lifetime.detach,
      tty,
      linux,
      ...(stopSignal !== undefined && { stopSignal }),
    }),
  };
}

function annotationsOf(flags: CreateFlags, ports: readonly string[]): Record<string, string> {
  return {
    ...keyValues(flags.annotation, "--annotation"),
    [ANNOTATION.ports]: JSON.stringify(ports),
    [ANNOTATION.tty]: String(flags.tty === true),
    [ANNOTATION.stdin]: String(flags.interactive === true),
  };
}

const hasDns = ({ dns, dnsSearch, dnsOption }: CreateFlags): boolean =>
  dns.length + dnsSearch.length + dnsOption.length > 0;

interface Command {
  readonly command: string[];
  readonly args: string[];
}

/** An empty entry point means none at all: the arguments are the whole command line, as with docker. */
function commandOf(entrypoint: string | undefined, args: readonly string[]): Command {
  if (entrypoint !== "") return { command: entrypoint === undefined ? [] : [entrypoint], args: [...args] };
  if (args.length === 0) throw new Failure(`--entrypoint "" leaves nothing to run: give a command after the image`);
  return { command: [...args], args: [] };
}

/** Kubernetes' rule, which is docker's too: an entry point of one's own drops the image's command. */
function commandLine({ command, args }: Command, image: RunImage): readonly string[] {
  if (command.length > 0) return [...command, ...args];
  return [...image.entrypoint, ...(args.length > 0 ? args : image.cmd)];
}
