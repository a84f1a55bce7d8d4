/**
 * NVIDIA Container Toolkit's own configuration, nvidia-container-runtime/config.toml: every key of version 1.20, by its
 * name in the file.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "smol-toml";

export const DEFAULT_CAPABILITIES = "compat32,compute,display,graphics,ngx,utility,video";

type Value = boolean | string | readonly string[];

interface Field<V extends Value> {
  readonly initial: V;
  /** Not in a file of defaults: its absence is what its initial value means. */
  readonly optional?: true;
  /** What a file of defaults shows of it, behind a #. */
  readonly example?: V;
}

const yesNo = (initial: boolean, more: Omit<Field<boolean>, "initial"> = {}): Field<boolean> => ({ initial, ...more });
const text = (initial: string, more: Omit<Field<string>, "initial"> = {}): Field<string> => ({ initial, ...more });
const list = (initial: readonly string[], more: Omit<Field<readonly string[]>, "initial"> = {}) => ({
  initial,
  ...more,
});
const OPTIONAL = { optional: true } as const;

export const FIELDS = {
  "disable-require": yesNo(false),
  "swarm-resource": text("", { example: "DOCKER_RESOURCE_GPU" }),
  "accept-nvidia-visible-devices-envvar-when-unprivileged": yesNo(true, { example: true }),
  "accept-nvidia-visible-devices-as-volume-mounts": yesNo(false, { example: false }),
  "supported-driver-capabilities": text(DEFAULT_CAPABILITIES),
  "nvidia-container-cli.root": text("", { example: "/run/nvidia/driver" }),
  "nvidia-container-cli.path": text("", { example: "/usr/bin/nvidia-container-cli" }),
  "nvidia-container-cli.environment": list([]),
  "nvidia-container-cli.debug": text("", { example: "/var/log/nvidia-container-toolkit.log" }),
  "nvidia-container-cli.ldcache": text("", { example: "/etc/ld.so.cache" }),
  "nvidia-container-cli.load-kmods": yesNo(true),
  "nvidia-container-cli.no-pivot": yesNo(false, OPTIONAL),
  "nvidia-container-cli.no-cgroups": yesNo(false, { example: false }),
  "nvidia-container-cli.user": text("", { example: "root:video" }),
  "nvidia-container-cli.ldconfig": text("@/sbin/ldconfig"),
  "nvidia-container-runtime.debug": text("/dev/null", { example: "/var/log/nvidia-container-runtime.log" }),
  "nvidia-container-runtime.log-level": text("info"),
  "nvidia-container-runtime.runtimes": list(["runc", "crun"]),
  "nvidia-container-runtime.mode": text("auto"),
  "nvidia-container-runtime.modes.cdi.annotation-prefixes": list(["cdi.k8s.io/"]),
  "nvidia-container-runtime.modes.cdi.default-kind": text("nvidia.com/gpu"),
  "nvidia-container-runtime.modes.cdi.spec-dirs": list(["/etc/cdi", "/var/run/cdi"]),
  "nvidia-container-runtime.modes.csv.mount-spec-path": text(
    "/etc/nvidia-container-runtime/host-files-for-container.d",
  ),
  "nvidia-container-runtime.modes.csv.compat-container-root": text("", OPTIONAL),
  "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags": list([], OPTIONAL),
  "nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks": list([], OPTIONAL),
  "nvidia-container-runtime.modes.legacy.cuda-compat-mode": text("ldconfig"),
  "nvidia-container-runtime-hook.path": text("nvidia-container-runtime-hook"),
  "nvidia-container-runtime-hook.skip-mode-detection": yesNo(false),
  "nvidia-ctk.path": text("nvidia-ctk"),
  "features.allow-cuda-compat-libs-from-container": yesNo(false, OPTIONAL),
  "features.allow-ldconfig-from-container": yesNo(false, OPTIONAL),
  "features.allow-unknown-oci-spec-fields": yesNo(false, OPTIONAL),
  "features.disable-cuda-compat-lib-hook": yesNo(false, OPTIONAL),
  "features.disable-imex-channel-creation": yesNo(false, OPTIONAL),
  "features.ignore-imex-channel-requests": yesNo(false, OPTIONAL),
  "features.no-additional-gids-for-device-nodes": yesNo(false, OPTIONAL),
} as const satisfies Record<string, Field<Value>>;

export type Key = keyof typeof FIELDS;
export type ValueOf<K extends Key> = (typeof FIELDS)[K] extends Field<infer V> ? V : never;

export class ToolkitConfigError extends Error {
  override readonly name = "ToolkitConfigError";
}

/** What the file says, and the defaults for the rest. */
export class ToolkitConfig {
  readonly #set: ReadonlyMap<Key, Value>;
  /** Keys of the file that no version known has; they have no effect. */
  readonly unknown: ReadonlyMap<string, unknown>;

  constructor(set: ReadonlyMap<Key, Value> = new Map(), unknown: ReadonlyMap<string, unknown> = new Map()) {
    this.#set = set;
    this.unknown = unknown;
  }

  get<K extends Key>(key: K): ValueOf<K> {
    return (this.#set.get(key) ?? FIELDS[key].initial) as ValueOf<K>;
  }

  isSet(key: Key): boolean {
    return this.#set.has(key);
  }

  /** With `key` as given, or as if the file did not have it. */
  with<K extends Key>(key: K, value: ValueOf<K> | undefined): ToolkitConfig {
    const set = new Map(this.#set);
    if (value === undefined) set.delete(key);
    else set.set(key, value);
    return new ToolkitConfig(set, this.unknown);
  }

  /** ldconfig as nvidia-container-cli takes it: "@" and a path of the host's, which on Ubuntu is the one with ".real". */
  ldconfig(): string {
    const path = this.get("nvidia-container-cli.ldconfig");
    if (!path.startsWith("@")) return path;
    const plain = path.slice(1).replace(/\.real$/, "");
    return existsSync(`${plain}.real`) ? `@${plain}.real` : `@${plain}`;
  }
}

/** Where the file is, by the environment that nvidia-container-runtime looks at. */
export function configPath(env: Readonly<Record<string, string | undefined>>): string {
  return (
    env["NVIDIA_CTK_CONFIG_FILE_PATH"] ||
    join(env["XDG_CONFIG_HOME"] || "/etc", "nvidia-container-runtime", "config.toml")
  );
}

/** Without a file: the defaults. Throws ToolkitConfigError naming the file and the key. */
export function loadConfig(path: string): ToolkitConfig {
  return existsSync(path) ? parseConfig(readFileSync(path, "utf8"), path) : new ToolkitConfig();
}

export function parseConfig(content: string, path: string): ToolkitConfig {
  const config = readConfig(content, path);
  const ldconfig = config.get("nvidia-container-cli.ldconfig");
  if (!ldconfig.startsWith("@") && !config.get("features.allow-ldconfig-from-container"))
    throw new ToolkitConfigError(
      `${path}: nvidia-container-cli.ldconfig: "${ldconfig}" would be a program of the container's: begin it with "@", or set features.allow-ldconfig-from-container`,
    );
  return config;
}

/** Without a judgement on what the values mean. */
export function readConfig(content: string, path: string): ToolkitConfig {
  const set = new Map<Key, Value>();
  const unknown = new Map<string, unknown>();
  for (const [key, value] of leaves(toml(content, path))) {
    if (!isKey(key)) unknown.set(key, value);
    else set.set(key, typed(key, value, path));
  }
  return new ToolkitConfig(set, unknown);
}

export function isKey(name: string): name is Key {
  return Object.hasOwn(FIELDS, name);
}

function toml(content: string, path: string): Record<string, unknown> {
  try {
    return parse(content);
  } catch (error) {
    throw new ToolkitConfigError(`${path}: ${(error as Error).message}`, { cause: error });
  }
}

function leaves(table: Record<string, unknown>, prefix = ""): (readonly [string, unknown])[] {
  return Object.entries(table).flatMap(([key, value]) =>
    typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date)
      ? leaves(value as Record<string, unknown>, `${prefix}${key}.`)
      : [[`${prefix}${key}`, value] as const],
  );
}

function typed(key: Key, value: unknown, path: string): Value {
  const { initial } = FIELDS[key];
  if (Array.isArray(initial)) {
    if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value;
    throw new ToolkitConfigError(`${path}: ${key} must be a list of strings`);
  }
  if (typeof value !== typeof initial) throw new ToolkitConfigError(`${path}: ${key} must be a ${typeof initial}`);
  return value as Value;
}
