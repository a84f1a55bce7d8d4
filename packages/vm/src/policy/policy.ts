/** An agent's policy as Kata has it: a package agent_policy in Rego, whose rules are named after requests and say whether each is allowed. */
import { VmError } from "../errors.ts";
import { evaluate } from "./evaluate.ts";
import { PolicyError } from "./lexer.ts";
import { parsePolicy } from "./parser.ts";
import type { Module, Value } from "./syntax.ts";

/** Kata's agent takes as much. */
const LONGEST = 16 << 20;
/** Allows every request that the policy would deny: for finding out why it does. */
const LENIENT = "AllowRequestsFailingPolicy";

interface Patch {
  readonly op?: Value;
  readonly path?: Value;
  readonly value?: Value;
}

export class AgentPolicy {
  readonly text: string;
  readonly #module: Module;
  /** data.pstate: what answers of rules have put down, for later ones. */
  #state: Record<string, Value> = {};

  /** `where`: for errors. Throws VmError InvalidConfiguration, which names the line. */
  constructor(text: string, where: string) {
    if (Buffer.byteLength(text) > LONGEST)
      throw new VmError("InvalidConfiguration", `${where}: has more than ${LONGEST} bytes`);
    this.text = text;
    try {
      this.#module = parsePolicy(text);
    } catch (error) {
      if (!(error instanceof PolicyError)) throw error;
      throw new VmError("InvalidConfiguration", `${where}: ${error.message}`, { cause: error });
    }
  }

  /** `input`: the request as JSON, by the names of Kata's agent.proto. Throws VmError Denied. */
  check(request: string, input: Value): void {
    const answer = this.#ask(request, input);
    if (this.#allows(answer)) return;
    if (this.#ask(LENIENT, {}) === true) return;
    throw new VmError("Denied", `${request} is blocked by policy`);
  }

  #ask(rule: string, input: Value): Value | undefined {
    try {
      return evaluate({ module: this.#module, input, data: { pstate: this.#state } }, rule);
    } catch (error) {
      if (!(error instanceof PolicyError)) throw error;
      throw new VmError("Denied", `${rule}: the policy cannot be evaluated: ${error.message}`, { cause: error });
    }
  }

  #allows(answer: Value | undefined): boolean {
    if (typeof answer !== "object" || answer === null) return answer === true;
    const { allowed, ops } = answer as { allowed?: Value; ops?: Value };
    if (allowed !== true) return false;
    for (const patch of Array.isArray(ops) ? (ops as readonly Patch[]) : []) this.#patch(patch);
    return true;
  }

  /** RFC 6902, as far as Kata's policies use it: a member of /pstate is added. */
  #patch({ op, path, value }: Patch): void {
    const key = typeof path === "string" ? /^\/pstate\/([^/]+)$/.exec(path)?.[1] : undefined;
    if ((op !== "add" && op !== "replace") || key === undefined || value === undefined)
      throw new VmError(
        "Denied",
        `the policy's answer has the operation ${JSON.stringify({ op, path })}, which is not done here`,
      );
    this.#state = { ...this.#state, [key.replaceAll("~1", "/").replaceAll("~0", "~")]: value };
  }
}
