/**
 * The part of Go's text/template that CNI templates are written in (containerd's cni.conf_template): values of the pods' CIDRs, ranges
 * over them, and conditions on an index. What is beyond it is an error that shows it.
 */
import { isIPv6 } from "node:net";

export interface TemplateData {
  /** The first of the ranges. */
  readonly PodCIDR: string;
  readonly PodCIDRRanges: readonly string[];
  /** A default route for each family that the ranges have. */
  readonly Routes: readonly string[];
}

type Value = string | number | readonly string[];
type Node =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "value"; readonly name: string }
  | {
      readonly kind: "range";
      readonly of: string;
      readonly index: string;
      readonly item: string;
      readonly body: readonly Node[];
    }
  | { readonly kind: "if"; readonly name: string; readonly body: readonly Node[]; readonly otherwise: readonly Node[] };

/** `cidrs`: as the kubelet says them, "10.0.0.0/24" or "10.0.0.0/24,fd00::/64". */
export function templateData(cidrs: string): TemplateData {
  const ranges = cidrs.split(",").map((cidr) => cidr.trim());
  const families = new Set(ranges.map((range) => isIPv6(range.split("/")[0] ?? "")));
  const routes = [...(families.has(false) ? ["0.0.0.0/0"] : []), ...(families.has(true) ? ["::/0"] : [])];
  return { PodCIDR: ranges[0] ?? "", PodCIDRRanges: ranges, Routes: routes };
}

/** Throws an Error that shows the action which is not understood. */
export function renderTemplate(text: string, data: TemplateData): string {
  const parser = new Parser(text);
  const nodes = parser.block();
  if (parser.ended !== "") throw new Error(`{{${parser.ended}}} without a beginning`);
  return write(nodes, new Map(), data);
}

const NAME = String.raw`(?:\.|\$)\w*`;
const RANGE = new RegExp(String.raw`^range\s+(?:(\$\w+)\s*(?:,\s*(\$\w+))?\s*:=\s*)?(\.\w+)$`);

class Parser {
  /** Text and actions in turn; "{{-" and "-}}" take the white space beside them away. */
  readonly #parts: readonly string[];
  #at = 0;
  /** The action that ended the last block: "end", "else", or "" at the end of the text. */
  ended = "";

  constructor(text: string) {
    this.#parts = text
      .replace(/\s*\{\{- /g, "{{")
      .replace(/ -\}\}\s*/g, "}}")
      .split(/\{\{(.*?)\}\}/s);
  }

  block(): Node[] {
    const nodes: Node[] = [];
    while (this.#at < this.#parts.length) {
      const isAction = this.#at % 2 === 1;
      const part = this.#parts[this.#at++] ?? "";
      if (!isAction) nodes.push({ kind: "text", text: part });
      else {
        const action = part.trim();
        if (action === "end" || action === "else") {
          this.ended = action;
          return nodes;
        }
        nodes.push(this.#action(action));
      }
    }
    this.ended = "";
    return nodes;
  }

  #action(action: string): Node {
    if (new RegExp(`^${NAME}$`).test(action)) return { kind: "value", name: action };
    const range = RANGE.exec(action);
    if (range) {
      const [, first = "", second, of = ""] = range;
      const body = this.#body(action);
      return { kind: "range", of, index: second === undefined ? "" : first, item: second ?? first, body };
    }
    const [, name] = new RegExp(`^if\\s+(${NAME})$`).exec(action) ?? [];
    if (name === undefined) throw new Error(`{{${action}}} is beyond what berth reads of Go's templates`);
    const body = this.block();
    const otherwise = this.ended === "else" ? this.block() : [];
    if (this.ended !== "end") throw new Error(`{{${action}}} has no {{end}}`);
    return { kind: "if", name, body, otherwise };
  }

  #body(action: string): Node[] {
    const body = this.block();
    if (this.ended !== "end") throw new Error(`{{${action}}} has no {{end}}`);
    return body;
  }
}

type Scope = ReadonlyMap<string, Value>;

function write(nodes: readonly Node[], scope: Scope, data: TemplateData): string {
  return nodes.map((node) => writeNode(node, scope, data)).join("");
}

function writeNode(node: Node, scope: Scope, data: TemplateData): string {
  switch (node.kind) {
    case "text":
      return node.text;
    case "value":
      return String(valueOf(node.name, scope, data));
    case "if": {
      const value = valueOf(node.name, scope, data);
      const holds = typeof value === "number" ? value !== 0 : value.length > 0;
      return write(holds ? node.body : node.otherwise, scope, data);
    }
    case "range": {
      const list = valueOf(node.of, scope, data);
      if (typeof list !== "object") throw new Error(`{{range ${node.of}}}: it is no list`);
      return list
        .map((item, index) =>
          write(node.body, new Map([...scope, [node.index, index], [node.item, item], [".", item]]), data),
        )
        .join("");
    }
  }
}

function valueOf(name: string, scope: Scope, data: TemplateData): Value {
  const value = scope.get(name) ?? (name.startsWith(".") ? data[name.slice(1) as keyof TemplateData] : undefined);
  if (value === undefined)
    throw new Error(`{{${name}}}: there is no such value; there are .PodCIDR, .PodCIDRRanges and .Routes`);
  return value;
}
