/** The documents of a checkpoint archive, as containerd and CRI-O write them and checkpointctl reads them (checkpointctl, lib/metadata.go). */
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toJson } from "@bufbuild/protobuf";
import { cri, type oci } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid } from "../errors.ts";
import { containerStatus } from "../container/status.ts";
import { exists } from "../presence.ts";
import { kindOf } from "../runtimes/find.ts";
import type { Container } from "../store/records.ts";

export const FILES = {
  /** Directory of CRIU's images. */
  images: "checkpoint",
  config: "config.dump",
  spec: "spec.dump",
  status: "status.dump",
  /** What the container had changed in its root file system, as a layer. */
  changes: "rootfs-diff.tar",
  deleted: "deleted.files",
  binds: "bind.mounts",
  log: "container.log",
} as const;

export interface ConfigDump {
  readonly id: string;
  readonly name: string;
  readonly rootfsImage?: string;
  /** By digest. */
  readonly rootfsImageRef?: string;
  readonly rootfsImageName?: string;
  readonly runtime?: string;
  readonly createdTime: string;
  readonly checkpointedTime: string;
  readonly restoredTime: string;
  readonly restored: boolean;
}

/** What Go has for a time that is not set. */
const NO_TIME = "0001-01-01T00:00:00Z";
const NS_IN_MS = 1_000_000n;
const timeOf = (ns: bigint): string => new Date(Number(ns / NS_IN_MS)).toISOString();

export async function writeDocuments(context: CriContext, container: Container, spec: oci.Spec, directory: string) {
  const { record } = container;
  const status = containerStatus(context, container);
  const pod = context.sandboxes.get(record.sandboxId).record.config.metadata;
  const metadata = record.config.metadata;
  const config: ConfigDump = {
    id: record.id,
    name: [metadata?.name, pod?.name, pod?.namespace, pod?.uid, metadata?.attempt].join("_"),
    rootfsImage: status.image?.image ?? "",
    rootfsImageRef: record.imageRef,
    rootfsImageName: status.image?.image ?? "",
    runtime: kindOf(context, record).programOf(record),
    createdTime: timeOf(record.createdAt),
    checkpointedTime: new Date().toISOString(),
    restoredTime: NO_TIME,
    restored: false,
  };
  const write = (name: string, value: unknown) =>
    writeFile(join(directory, name), JSON.stringify(value), { mode: 0o600 });
  await write(FILES.config, config);
  await write(FILES.spec, spec);
  await writeFile(join(directory, FILES.status), statusJson(status), { mode: 0o600 });
  await write(FILES.binds, await bindMounts(spec));
}

/** 64-bit integers of a container's status: Go writes and reads them as numbers, protojson as texts. */
const NUMBERS = new Set(["created_at", "started_at", "finished_at", "uid", "gid", "supplemental_groups"]);
const MORE_NUMBERS = /^(cpu_|memory_|oom_score_adj$|page_size$|limit$)/;

/** As Go's encoding/json writes the message. */
function statusJson(status: cri.ContainerStatus): string {
  const options = { useProtoFieldName: true, enumAsInteger: true } as const;
  const json = toJson(cri.ContainerStatusSchema, status, options);
  const raw = JSON as unknown as { rawJSON(text: string): unknown };
  return JSON.stringify(json, (key, value: unknown) => {
    if (!NUMBERS.has(key) && !MORE_NUMBERS.test(key)) return value;
    const number = (one: unknown): unknown => (typeof one === "string" && /^-?\d+$/.test(one) ? raw.rawJSON(one) : one);
    return Array.isArray(value) ? value.map(number) : number(value);
  });
}

/** For CRI-O, which makes what is missing of them on another node. */
async function bindMounts(spec: oci.Spec): Promise<object[]> {
  const found = [];
  for (const { type, source = "", destination } of spec.mounts ?? []) {
    if (type !== "bind") continue;
    const { mode } = await stat(source);
    const isDirectory = (mode & 0o170_000) === 0o040_000;
    found.push({ source, destination, file_type: isDirectory ? "directory" : "file", permissions: mode & 0o777 });
  }
  return found;
}

export interface Documents {
  readonly config: ConfigDump;
  readonly status: { readonly annotations: Record<string, string>; readonly labels: Record<string, string> };
}

/** InvalidArgument: it is no checkpoint. */
export async function readDocuments(directory: string, what: string): Promise<Documents> {
  const config = await readObject(join(directory, FILES.config), what);
  // CRI-O writes none.
  const status: Record<string, unknown> = (await exists(join(directory, FILES.status)))
    ? await readObject(join(directory, FILES.status), what)
    : {};
  if (typeof config["id"] !== "string") throw invalid(`${what}: its ${FILES.config} names no container`);
  return {
    config: config as unknown as ConfigDump,
    status: { annotations: textsOf(status["annotations"]), labels: textsOf(status["labels"]) },
  };
}

async function readObject(path: string, what: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    const name = path.slice(path.lastIndexOf("/") + 1);
    throw invalid(`${what}: is no checkpoint: it has no ${name}`);
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw invalid(`${what}: ${path.slice(path.lastIndexOf("/") + 1)} is not a JSON object`);
}

function textsOf(value: unknown): Record<string, string> {
  if (typeof value !== "object" || value === null) return {};
  return Object.fromEntries(
    Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}
