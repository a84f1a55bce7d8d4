/** The process of a container: what the pod's spec says, completed by the image's configuration. */
import type { cri, image as imageSpec } from "@berth/spec";
import { invalid } from "../errors.ts";

const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * Kubernetes' rule: `command` replaces the image's ENTRYPOINT and with it its CMD, `args` alone replaces CMD
 * (kubernetes.io, "Define a Command and Arguments for a Container").
 */
export function argvOf(config: cri.ContainerConfig, image: imageSpec.ContainerDefaults): string[] {
  let { command, args } = config;
  if (command.length === 0) {
    if (args.length === 0) args = [...(image.Cmd ?? [])];
    command = [...(image.Entrypoint ?? [])];
  }
  const argv = [...command, ...args];
  if (argv.length === 0)
    throw invalid("config.command: no command is given, and the image has neither ENTRYPOINT nor CMD");
  return argv;
}

export function environmentOf(
  config: cri.ContainerConfig,
  image: imageSpec.ContainerDefaults,
  hostname: string,
): string[] {
  const env = new Map<string, string>([["PATH", DEFAULT_PATH]]);
  if (config.tty) env.set("TERM", "xterm");
  if (hostname !== "") env.set("HOSTNAME", hostname);
  for (const entry of image.Env ?? []) {
    const split = entry.indexOf("=");
    if (split > 0) env.set(entry.slice(0, split), entry.slice(split + 1));
  }
  for (const [index, { key, value }] of config.envs.entries()) {
    if (key === "" || key.includes("=") || key.includes("\0"))
      throw invalid(`config.envs[${index}].key: "${key}" is not a variable's name`);
    env.set(key, Buffer.from(value).toString("utf8"));
  }
  return [...env].map(([key, value]) => `${key}=${value}`);
}

export function cwdOf(config: cri.ContainerConfig, image: imageSpec.ContainerDefaults): string {
  const cwd = config.workingDir || image.WorkingDir || "/";
  if (!cwd.startsWith("/")) throw invalid(`config.working_dir: "${cwd}" is not an absolute path`);
  return cwd;
}
