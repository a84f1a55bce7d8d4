/** Objects as YAML or JSON, indented. */
import { extname } from "node:path";
import type { oci } from "@berth/spec";
import { toYaml } from "../yaml.ts";
import { Failure } from "./context.ts";

export type Format = "json" | "yaml";

/** What was asked for, else what the file's name says, else YAML. */
export function chooseFormat(asked: string, path = ""): Format {
  if (asked !== "" && asked !== "json" && asked !== "yaml") throw new Failure(`-o ${asked}: use json or yaml`);
  if (asked !== "") return asked;
  return extname(path) === ".json" ? "json" : "yaml";
}

export function formatObject(level: number, value: unknown, format: Format): string {
  const text = format === "json" ? JSON.stringify(value, null, 2) : toYaml(value).trimEnd();
  return text
    .split("\n")
    .map((line) => `${" ".repeat(level)}${line}\n`)
    .join("");
}

const SPEC_ORDER = [
  "ociVersion",
  "process",
  "root",
  "hostname",
  "domainname",
  "mounts",
  "hooks",
  "annotations",
  "linux",
];
const PROCESS_ORDER = [
  "terminal",
  "consoleSize",
  "user",
  "args",
  "commandLine",
  "env",
  "cwd",
  "capabilities",
  "rlimits",
];
const LINUX_ORDER = [
  "uidMappings",
  "gidMappings",
  "sysctl",
  "resources",
  "cgroupsPath",
  "namespaces",
  "devices",
  "netDevices",
  "seccomp",
];

/** An OCI configuration with its fields in the order in which programs in Go write them, whatever was added when. */
export function orderedSpec(spec: oci.Spec): oci.Spec {
  const { process, linux } = spec;
  const inner = { ...spec, ...(process && { process: ordered(process, PROCESS_ORDER) }) };
  return ordered({ ...inner, ...(linux && { linux: ordered(linux, LINUX_ORDER) }) }, SPEC_ORDER);
}

/** The others after these, as they come. */
function ordered<T extends object>(value: T, order: readonly string[]): T {
  const place = (key: string): number => (order.includes(key) ? order.indexOf(key) : order.length);
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => place(a) - place(b))) as T;
}
