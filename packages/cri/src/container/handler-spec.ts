/** What a runtime handler adds to the OCI configs of its containers: a base, and annotations that are passed through. */
import { readFile } from "node:fs/promises";
import type { oci } from "@berth/spec";
import { precondition } from "../errors.ts";
import type { RuntimeHandler } from "../handlers.ts";

/** The file of base_runtime_spec, read anew for each container; undefined: the handler has none. */
export async function baseSpecOf({ name, baseSpec }: RuntimeHandler): Promise<Partial<oci.Spec> | undefined> {
  if (baseSpec === undefined) return undefined;
  const about = `base_runtime_spec of runtime handler "${name}"`;
  try {
    return JSON.parse(await readFile(baseSpec, "utf8")) as Partial<oci.Spec>;
  } catch (error) {
    throw precondition(
      `${about}: ${error instanceof SyntaxError ? `${baseSpec} is not JSON: ` : ""}${(error as Error).message}`,
    );
  }
}

/**
 * `spec` on top of `base`: what the pod asks for counts, and what it cannot ask for (hooks, limits, further mounts and environment)
 * is the base's.
 */
export function onBase(base: Partial<oci.Spec> | undefined, spec: oci.Spec): oci.Spec {
  if (base === undefined) return spec;
  const destinations = new Set(spec.mounts?.map(({ destination }) => destination));
  const seccomp = spec.linux?.seccomp ?? base.linux?.seccomp;
  return {
    ...base,
    ...spec,
    mounts: [
      ...(spec.mounts ?? []),
      ...(base.mounts ?? []).filter(({ destination }) => !destinations.has(destination)),
    ],
    annotations: { ...base.annotations, ...spec.annotations },
    ...(spec.process && { process: processOnBase(base.process, spec.process) }),
    linux: {
      ...base.linux,
      ...spec.linux,
      resources: { ...base.linux?.resources, ...spec.linux?.resources },
      ...(seccomp && { seccomp }),
    },
  };
}

function processOnBase(base: oci.Process | undefined, process: oci.Process): oci.Process {
  const named = new Set(process.env?.map(nameOf));
  return {
    ...base,
    ...process,
    env: [...(base?.env ?? []).filter((entry) => !named.has(nameOf(entry))), ...(process.env ?? [])],
    rlimits: base?.rlimits ?? process.rlimits ?? [],
  };
}

const nameOf = (entry: string): string => entry.slice(0, entry.indexOf("="));

/** The annotations that one of the patterns names (Go's path.Match, as in containerd's configuration). */
export function passedThrough(
  annotations: Readonly<Record<string, string>>,
  patterns: readonly string[],
): Record<string, string> {
  const expressions = patterns.map(expressionOf);
  return Object.fromEntries(
    Object.entries(annotations).filter(([key]) => expressions.some((expression) => expression.test(key))),
  );
}

/** "*" and "?" stop at a slash; "[a-z]" and "[^a]" are classes; a backslash takes what follows as it is. */
function expressionOf(pattern: string): RegExp {
  const source = pattern.replace(/\\(.)|\[(\^?)((?:\\.|[^\]\\])+)\]|[\s\S]/gu, (part, escaped, negated, members) => {
    if (escaped !== undefined) return RegExp.escape(String(escaped));
    if (members !== undefined) return `[${String(negated)}${String(members).replaceAll("[", "\\[")}]`;
    if (part === "*") return "[^/]*";
    return part === "?" ? "[^/]" : RegExp.escape(part);
  });
  return new RegExp(`^${source}$`, "u");
}
