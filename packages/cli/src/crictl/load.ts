/** Pod and container configurations from files, JSON or YAML. */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { type DescMessage, fromJson, type JsonValue, type MessageShape, ScalarType } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { parse } from "yaml";
import type { Context } from "./command.ts";
import { CrictlError } from "./errors.ts";
import type { Json } from "./go/json.ts";

export function loadContainer(path: string): cri.ContainerConfig {
  const config = load(cri.ContainerConfigSchema, path);
  if (!config.metadata) throw new CrictlError("metadata is not set");
  if (config.metadata.name === "") throw new CrictlError('name is not in metadata ""');
  if (!config.image) throw new CrictlError("image is not set");
  if (config.image.image === "") throw new CrictlError('image field is not set in image ""');
  return config;
}

export function loadPod(context: Context, path: string): cri.PodSandboxConfig {
  const config = load(cri.PodSandboxConfigSchema, path);
  if (!config.metadata) throw new CrictlError("metadata is not set");
  config.metadata.uid ||= randomUUID();
  const { name, namespace } = config.metadata;
  if (name === "" || namespace === "") throw new CrictlError("name or namespace is not in metadata");
  if (config.linux && config.linux.cgroupParent === "")
    context.log("warning", "cgroup_parent is not set. Use `runtime-config` to get the runtime cgroup driver");
  return config;
}

function load<D extends DescMessage>(desc: D, path: string): MessageShape<D> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") throw new CrictlError(`config at ${path} not found`);
    throw error;
  }
  try {
    return fromJson(desc, (bytesToText(desc, parse(text) as Json) ?? {}) as JsonValue, { ignoreUnknownFields: true });
  } catch (error) {
    throw new CrictlError(`${path}: ${(error as Error).message}`);
  }
}

/** Bytes (environment variables' values) are written as plain text, where protobuf's JSON has base64. */
function bytesToText(desc: DescMessage, value: Json): Json {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  const entries = Object.entries(value as { readonly [key: string]: Json }).map(([key, item]): [string, Json] => {
    const field = desc.fields.find(({ name, jsonName }) => name === key || jsonName === key);
    if (field?.fieldKind === "scalar" && field.scalar === ScalarType.BYTES)
      return [key, Buffer.from(typeof item === "string" ? item : JSON.stringify(item)).toString("base64")];
    const { message } = field ?? {};
    if (!message) return [key, item];
    return [
      key,
      Array.isArray(item) ? item.map((each) => bytesToText(message, each as Json)) : bytesToText(message, item),
    ];
  });
  return Object.fromEntries(entries);
}
