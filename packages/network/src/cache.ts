/**
 * What was attached, on disk, as libcni keeps it (`<cacheDir>/results/<network>-<container>-<interface>`, kind
 * cniCacheV1), so that DEL works after a restart, after the configuration has changed, and with libcni's own tools. A
 * file is written before ADD without a result and again after it with one: a crash in between leaves the configuration
 * that a DEL needs.
 */
import { randomUUID } from "node:crypto";
import { mkdir, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { formatConf, isObject, type Json, type NetworkConf, parseConf } from "./conf.ts";
import type { Log } from "./log.ts";

const KIND = "cniCacheV1";

export interface Attachment {
  readonly network: NetworkConf;
  readonly containerId: string;
  readonly ifName: string;
  readonly netns: string;
  readonly args: Readonly<Record<string, string>>;
  readonly capabilities: Json;
  /** The last plugin's ADD result as it printed it; absent: ADD never ended well. */
  readonly result?: Json;
  /** Whose attachment it is, where several runtimes share the cache; absent: not berth's. */
  readonly owner?: string;
}

export class AttachmentCache {
  readonly #dir: string;
  readonly #log: Log;

  constructor(cacheDir: string, log: Log) {
    this.#dir = join(cacheDir, "results");
    this.#log = log;
  }

  async put(attachment: Attachment): Promise<void> {
    const text = JSON.stringify({
      kind: KIND,
      containerId: attachment.containerId,
      config: Buffer.from(JSON.stringify(formatConf(attachment.network))).toString("base64"),
      ifName: attachment.ifName,
      networkName: attachment.network.name,
      netns: attachment.netns,
      cniArgs: Object.entries(attachment.args),
      capabilityArgs: attachment.capabilities,
      ...(attachment.result ? { result: attachment.result } : {}),
      ...(attachment.owner === undefined ? {} : { "berth.owner": attachment.owner }),
    });
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const path = this.#path(attachment.network.name, attachment.containerId, attachment.ifName);
    const temporary = `${path}.${randomUUID()}.tmp`;
    try {
      await writeFile(temporary, text, { mode: 0o600, flag: "wx" });
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  async get(network: string, containerId: string, ifName: string): Promise<Attachment | undefined> {
    return await this.#read(this.#path(network, containerId, ifName));
  }

  /** All of one container's, or all there are, in the order of their interfaces' names. Unreadable files are passed over with a warning. */
  async list(containerId?: string): Promise<Attachment[]> {
    const found: Attachment[] = [];
    for (const name of await this.#names()) {
      if (name.endsWith(".tmp") || (containerId !== undefined && !name.includes(`-${containerId}-`))) continue;
      const attachment = await this.#read(join(this.#dir, name));
      if (attachment && (containerId === undefined || attachment.containerId === containerId)) found.push(attachment);
    }
    return found.sort((a, b) => a.ifName.localeCompare(b.ifName, "en", { numeric: true }));
  }

  async remove(attachment: Attachment): Promise<void> {
    await rm(this.#path(attachment.network.name, attachment.containerId, attachment.ifName), { force: true });
  }

  #path(network: string, containerId: string, ifName: string): string {
    return join(this.#dir, `${network}-${containerId}-${ifName}`);
  }

  async #names(): Promise<string[]> {
    try {
      return await readdir(this.#dir);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    }
  }

  async #read(path: string): Promise<Attachment | undefined> {
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
    try {
      return parseAttachment(path, text);
    } catch (error) {
      // A power cut can leave an empty file. The present configuration then serves for DEL, as it does for libcni.
      this.#log.warn({ path, error }, `ignoring the cached cni attachment ${path}: ${(error as Error).message}`);
      return undefined;
    }
  }
}

function parseAttachment(path: string, text: string): Attachment | undefined {
  const value: unknown = JSON.parse(text);
  // Results of libcni before 0.8 are bare: nothing says how they came to be.
  if (!isObject(value) || value["kind"] !== KIND) return undefined;
  const string = (field: string): string => {
    const item = value[field];
    if (typeof item !== "string" || item === "") throw new Error(`${field}: missing`);
    return item;
  };
  const { netns, cniArgs, capabilityArgs, result } = value;
  const owner = value["berth.owner"];
  const config = Buffer.from(string("config"), "base64").toString();
  return {
    network: parseConf(`${path}.conflist`, config),
    containerId: string("containerId"),
    ifName: string("ifName"),
    netns: typeof netns === "string" ? netns : "",
    args: Array.isArray(cniArgs) ? (Object.fromEntries(cniArgs as [string, string][]) as Record<string, string>) : {},
    capabilities: isObject(capabilityArgs) ? capabilityArgs : {},
    ...(isObject(result) ? { result } : {}),
    ...(typeof owner === "string" ? { owner } : {}),
  };
}
