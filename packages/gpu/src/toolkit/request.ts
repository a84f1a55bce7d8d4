/**
 * What a container asks of the GPUs: by annotations, by mounts of /dev/null, or by variables of its environment, in
 * nvidia-container-runtime's order.
 */
import { isAbsolute, normalize } from "node:path";
import type { oci } from "@berth/spec";
import { isQualifiedName } from "@berth/cdi/injection";
import type { ToolkitConfig } from "./config.ts";
import { truth } from "./truth.ts";

const MOUNTS = "/var/run/nvidia-container-devices";

export class Request {
  readonly env: ReadonlyMap<string, string>;
  readonly isPrivileged: boolean;
  readonly #spec: oci.Spec;
  readonly #config: ToolkitConfig;
  readonly #warn: (message: string) => void;

  constructor(spec: oci.Spec, config: ToolkitConfig, warn: (message: string) => void) {
    this.#spec = spec;
    this.#config = config;
    this.#warn = warn;
    this.env = new Map((spec.process?.env ?? []).map(variable));
    // The bounding set alone: a user of the container who is not root has the others empty.
    this.isPrivileged = spec.process?.capabilities?.bounding?.includes("CAP_SYS_ADMIN") === true;
  }

  /** An image of CUDA from before NVIDIA_REQUIRE_CUDA: it means all GPUs without saying so. */
  get isLegacy(): boolean {
    return !!this.env.get("CUDA_VERSION") && !this.env.get("NVIDIA_REQUIRE_CUDA");
  }

  /**
   * Names of GPUs as the container has them (an index, a UUID, "all", a CDI name), "" for the driver without a GPU; none: nothing
   * is asked for. `annotations`: whether those count, as they do in mode cdi.
   */
  devices(annotations: boolean): string[] {
    const byAnnotation = annotations ? this.#annotated() : [];
    if (byAnnotation.length > 0) return byAnnotation;
    const byMount = this.#acceptsMounts() ? this.#mounted() : [];
    if (byMount.length > 0) return byMount;
    const byName = this.#variables();
    const devices = this.#fromVariables(byName);
    if (devices.length === 0 || this.#mayAsk()) return devices;
    this.#warn(`ignoring ${byName.join(", ")} of a container that is not privileged`);
    return [];
  }

  /** Channels of IMEX. */
  imexChannels(): string[] {
    if (this.#config.get("features.ignore-imex-channel-requests")) return [];
    const mounted = this.#acceptsMounts() ? this.#mounts().flatMap((name) => after(name, "imex/")) : [];
    if (mounted.length > 0) return mounted;
    const channels = this.#fromVariables(["NVIDIA_IMEX_CHANNELS"]);
    if (channels.length === 0 || channels.join() === "all") return [];
    if (this.#mayAsk()) return channels;
    this.#warn("ignoring NVIDIA_IMEX_CHANNELS of a container that is not privileged");
    return [];
  }

  /** Of NVIDIA_DRIVER_CAPABILITIES; "all" among them is every one. */
  capabilities(): Set<string> {
    return new Set((this.env.get("NVIDIA_DRIVER_CAPABILITIES") ?? "").split(",").map((name) => name.trim()));
  }

  /** Conditions on the driver, as nvidia-container-cli's --require takes them. Throws Error where CUDA_VERSION is no version. */
  requirements(): string[] {
    if (this.#config.get("disable-require") || truth(this.env.get("NVIDIA_DISABLE_REQUIRE") ?? "") === true) return [];
    const given = [...this.env].flatMap(([name, value]) =>
      name.startsWith("NVIDIA_REQUIRE_") && !name.startsWith("NVIDIA_REQUIRE_JETPACK") ? [value] : [],
    );
    return this.isLegacy ? [...given, `cuda>=${majorMinor(this.env.get("CUDA_VERSION") ?? "")}`] : given;
  }

  #mayAsk(): boolean {
    return this.isPrivileged || this.#config.get("accept-nvidia-visible-devices-envvar-when-unprivileged");
  }

  #acceptsMounts(): boolean {
    return this.#config.get("accept-nvidia-visible-devices-as-volume-mounts");
  }

  #annotated(): string[] {
    const prefixes = this.#config.get("nvidia-container-runtime.modes.cdi.annotation-prefixes");
    return Object.entries(this.#spec.annotations ?? {})
      .filter(([key]) => prefixes.some((prefix) => key.startsWith(prefix)))
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .flatMap(([, value]) => value.split(","));
  }

  /** `swarm-resource` may name other variables, which then stand for NVIDIA_VISIBLE_DEVICES. */
  #variables(): string[] {
    const preferred = this.#config
      .get("swarm-resource")
      .split(",")
      .map((name) => name.trim())
      .filter((name) => name !== "" && this.env.has(name));
    return preferred.length > 0 ? preferred : ["NVIDIA_VISIBLE_DEVICES"];
  }

  #fromVariables(names: readonly string[]): string[] {
    const values = names.flatMap((name) => this.env.get(name) ?? []);
    const devices = values
      .flatMap((value) => value.split(","))
      .map((device) => device.trim())
      .filter((device) => device !== "");
    return visible(values.length === 0 && this.isLegacy ? ["all"] : devices);
  }

  #mounted(): string[] {
    return this.#mounts().flatMap((name) => {
      if (name.startsWith("imex/")) return [];
      if (!name.startsWith("cdi/")) return [name];
      const device = cdiName(name.slice("cdi/".length));
      if (device === undefined) this.#warn(`ignoring the mount at ${MOUNTS}/${name}: it names no CDI device`);
      return device ?? [];
    });
  }

  #mounts(): string[] {
    const below = (this.#spec.mounts ?? []).flatMap(({ source, destination }) => {
      const place = normalize(destination).replace(/\/$/, "");
      return source !== undefined && isAbsolute(source) && normalize(source) === "/dev/null"
        ? after(place, `${MOUNTS}/`)
        : [];
    });
    return [...new Set(below)].filter((name) => name !== "");
  }
}

/** "all" and "none" stand for the whole list, wherever they are in it. */
function visible(devices: readonly string[]): string[] {
  if (devices.length === 0 || devices.includes("void")) return [];
  const word = devices.find((device) => device === "all" || device === "none");
  if (word === undefined) return [...new Set(devices)];
  return word === "all" ? ["all"] : [""];
}

/** A slash is no part of an environment's variable, but of a path: vendor/class/device stands for vendor/class=device. */
function cdiName(path: string): string | undefined {
  if (isQualifiedName(path)) return path;
  const [vendor, kind, ...device] = path.split("/");
  return device.length === 0 ? undefined : `${vendor}/${kind}=${device.join("/")}`;
}

function variable(entry: string): [string, string] {
  const equals = entry.indexOf("=");
  if (equals < 0) throw new Error(`process.env: "${entry}" is no NAME=value`);
  return [entry.slice(0, equals), entry.slice(equals + 1)];
}

const after = (text: string, prefix: string): string[] => (text.startsWith(prefix) ? [text.slice(prefix.length)] : []);

function majorMinor(version: string): string {
  const match = /^v?(\d+)(?:\.(\d+))?(?:\.\d+)?(?:[-+].*)?$/.exec(version);
  if (match === null) throw new Error(`CUDA_VERSION: "${version}" is no version`);
  return `${match[1]}.${match[2] ?? 0}`;
}
