/** What containerd tells a shim's program: flags as Go's flag package reads them. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface Invocation {
  readonly action: string;
  readonly namespace: string;
  readonly id: string;
  /** containerd's own. */
  readonly address: string;
  /** Of `delete`; otherwise the working directory. */
  readonly bundle: string;
  readonly debug: boolean;
  readonly version: boolean;
  /** What the runtime can do is asked for. */
  readonly info: boolean;
}

const TEXTS = ["namespace", "id", "address", "bundle", "publish-binary", "socket"] as const;
const FLAGS = ["debug", "v", "version", "info"] as const;

/** Throws on what it does not know. */
export function parseArguments(argv: readonly string[], cwd: string): Invocation {
  const texts: Partial<Record<(typeof TEXTS)[number], string>> = {};
  const flags = new Set<string>();
  let at = 0;
  for (; at < argv.length; at++) {
    const [whole = "", name, value] = /^--?([a-z-]+)(?:=(.*))?$/s.exec(argv[at] ?? "") ?? [];
    if (whole === "" || name === undefined) break;
    const text = TEXTS.find((known) => known === name);
    if (text !== undefined) texts[text] = value ?? argv[++at] ?? "";
    else if (FLAGS.some((known) => known === name) && value !== "false") flags.add(name);
    else if (value !== "false") throw new Error(`flag provided but not defined: -${name}`);
  }
  return {
    action: argv[at] ?? "",
    namespace: texts.namespace ?? "",
    id: texts.id ?? "",
    address: texts.address ?? "",
    bundle: texts.bundle ?? cwd,
    debug: flags.has("debug"),
    version: flags.has("v") || flags.has("version"),
    info: flags.has("info"),
  };
}

/** One shim holds the containers of a group: a pod's, by the CRI's annotation. */
export function groupOf({ bundle, id }: Pick<Invocation, "bundle" | "id">): string {
  const { annotations = {} } = JSON.parse(readFileSync(join(bundle, "config.json"), "utf8")) as {
    annotations?: Record<string, string>;
  };
  return annotations["io.containerd.runc.v2.group"] ?? annotations["io.kubernetes.cri.sandbox-id"] ?? id;
}
