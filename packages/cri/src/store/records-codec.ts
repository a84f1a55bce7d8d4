/** Records to and from a database row: messages of the CRI as protobuf, the rest as JSON (bigints as strings with a suffix). */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import type { ContainerRecord, SandboxRecord } from "./records.ts";

export interface Row {
  readonly id: string;
  readonly record: string;
  readonly config: Uint8Array;
}

const replacer = (_key: string, value: unknown): unknown => (typeof value === "bigint" ? `${value}n` : value);
const reviver = (_key: string, value: unknown): unknown =>
  typeof value === "string" && /^-?\d+n$/.test(value) ? BigInt(value.slice(0, -1)) : value;

export const sandboxCodec = {
  encode({ config, ...rest }: SandboxRecord): Row {
    return {
      id: rest.id,
      record: JSON.stringify(rest, replacer),
      config: toBinary(cri.PodSandboxConfigSchema, config),
    };
  },
  decode(row: Row): SandboxRecord {
    const rest = JSON.parse(row.record, reviver) as Omit<SandboxRecord, "config">;
    return { ...rest, config: fromBinary(cri.PodSandboxConfigSchema, row.config) };
  },
};

export const containerCodec = {
  encode({ config, resources, ...rest }: ContainerRecord): Row {
    const encoded = resources && Buffer.from(toBinary(cri.LinuxContainerResourcesSchema, resources)).toString("base64");
    return {
      id: rest.id,
      record: JSON.stringify({ ...rest, resources: encoded }, replacer),
      config: toBinary(cri.ContainerConfigSchema, config),
    };
  },
  decode(row: Row): ContainerRecord {
    const { resources, ...rest } = JSON.parse(row.record, reviver) as Omit<ContainerRecord, "config" | "resources"> & {
      resources?: string;
    };
    return {
      ...rest,
      config: fromBinary(cri.ContainerConfigSchema, row.config),
      resources:
        resources === undefined
          ? undefined
          : fromBinary(cri.LinuxContainerResourcesSchema, Buffer.from(resources, "base64")),
    };
  },
};
