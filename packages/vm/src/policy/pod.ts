/** The policy of one pod: the node's own, which the pod's annotations may replace where it allows that, and what is set later. */
import { readFile, rename, writeFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { VmError } from "../errors.ts";
import { INIT_DATA_ANNOTATION, POLICY_ANNOTATION } from "./annotations.ts";
import { AgentPolicy } from "./policy.ts";
import type { Value } from "./syntax.ts";

/** Kata's agent has it in its guest; here it is the node's. */
export const DEFAULT_POLICY = "/etc/kata-opa/default-policy.rego";

const INIT_DATA_VERSION = "0.1.0";
const POLICY_KEY = "policy.rego";
/** Unpacked. */
const LONGEST_INIT_DATA = 32 << 20;

export interface PolicySource {
  readonly annotations: Readonly<Record<string, string>>;
  /** The node's; one that is not there allows everything. */
  readonly file: string;
}

export class PodPolicy {
  #policy: AgentPolicy | undefined;
  #directory: string | undefined;

  private constructor(policy: AgentPolicy | undefined) {
    this.#policy = policy;
  }

  /** Of a pod that is about to be made. Rejects with VmError: InvalidConfiguration, or Denied. */
  static async open({ annotations, file }: PolicySource): Promise<PodPolicy> {
    const own = await textIn(file);
    const policy = new PodPolicy(own === undefined ? undefined : new AgentPolicy(own, file));
    for (const [name, decode] of [
      [INIT_DATA_ANNOTATION, initDataPolicy],
      [POLICY_ANNOTATION, decoded],
    ] as const) {
      const value = annotations[name] ?? "";
      const text = value === "" ? undefined : await decode(value, `annotation ${name}`);
      if (text !== undefined) await policy.set(text, `annotation ${name}`);
    }
    return policy;
  }

  /** Of a machine that an earlier daemon started. */
  static async found(directory: string): Promise<PodPolicy> {
    const text = await textIn(policyFile(directory));
    const policy = new PodPolicy(text === undefined ? undefined : new AgentPolicy(text, policyFile(directory)));
    policy.#directory = directory;
    return policy;
  }

  /** From now on it is kept in the machine's directory. */
  async keepIn(directory: string): Promise<void> {
    this.#directory = directory;
    await this.#save();
  }

  /** Undefined: there is none, and everything is allowed. */
  get text(): string | undefined {
    return this.#policy?.text;
  }

  /** Throws VmError Denied. `input`: only asked for where there is a policy. */
  check(request: string, input: () => Value): void {
    this.#policy?.check(request, input());
  }

  /** Rejects with VmError: Denied by the present one, or InvalidConfiguration. */
  async set(text: string, where = "policy"): Promise<void> {
    this.check("SetPolicyRequest", () => ({ policy: text }));
    this.#policy = new AgentPolicy(text, where);
    await this.#save();
  }

  async #save(): Promise<void> {
    if (this.#directory === undefined || this.#policy === undefined) return;
    const file = policyFile(this.#directory);
    await writeFile(`${file}.new`, this.#policy.text, { mode: 0o600 });
    await rename(`${file}.new`, file);
  }
}

const policyFile = (directory: string): string => `${directory}/policy.rego`;

async function textIn(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function decoded(value: string, where: string): Promise<string> {
  if (!/^[A-Za-z0-9+/\s]*={0,2}\s*$/.test(value)) throw new VmError("InvalidConfiguration", `${where}: is not base64`);
  return Promise.resolve(Buffer.from(value, "base64").toString());
}

/** Confidential containers' init data: gzipped TOML with files in [data]. The policy is the only one that anything here reads. */
async function initDataPolicy(value: string, where: string): Promise<string | undefined> {
  const { parse } = await import("smol-toml");
  const fail = (why: string): never => {
    throw new VmError("InvalidConfiguration", `${where}: ${why}`);
  };
  let document: { version?: unknown; data?: unknown };
  try {
    const text = gunzipSync(Buffer.from(value, "base64"), { maxOutputLength: LONGEST_INIT_DATA }).toString();
    document = parse(text);
  } catch (error) {
    return fail(`is no gzipped TOML in base64: ${(error as Error).message.split("\n")[0]}`);
  }
  if (document.version !== INIT_DATA_VERSION) return fail(`version: must be "${INIT_DATA_VERSION}"`);
  const data = document.data;
  if (typeof data !== "object" || data === null) return fail("[data]: is missing");
  for (const [name, content] of Object.entries(data)) {
    if (name !== POLICY_KEY) return fail(`[data] "${name}": the guest has no service that reads it`);
    if (typeof content !== "string") return fail(`[data] "${name}": must be a text`);
    return content;
  }
  return undefined;
}
