/** `-v source:target[:options]`: bind mounts. */
import { resolve } from "node:path";
import { cri } from "@berth/spec";
import { Failure } from "../failure.ts";

const { PROPAGATION_PRIVATE, PROPAGATION_HOST_TO_CONTAINER, PROPAGATION_BIDIRECTIONAL } = cri.MountPropagation;

const PROPAGATION: Readonly<Record<string, cri.MountPropagation>> = {
  private: PROPAGATION_PRIVATE,
  rprivate: PROPAGATION_PRIVATE,
  slave: PROPAGATION_HOST_TO_CONTAINER,
  rslave: PROPAGATION_HOST_TO_CONTAINER,
  shared: PROPAGATION_BIDIRECTIONAL,
  rshared: PROPAGATION_BIDIRECTIONAL,
};

export interface Volume {
  readonly hostPath: string;
  readonly containerPath: string;
  readonly readonly: boolean;
  readonly recursiveReadOnly: boolean;
  readonly selinuxRelabel: boolean;
  readonly propagation: cri.MountPropagation;
}

/** A source that begins with "." is taken from `cwd`; named volumes are refused. */
export function parseVolume(text: string, cwd: string): Volume {
  const fail = (why: string): never => {
    throw new Failure(`-v "${text}": ${why}; use /source:/target[:ro]`);
  };
  const [source = "", target, optionText = "", ...more] = text.split(":");
  if (target === undefined) return fail("anonymous volumes are not supported");
  if (more.length > 0) return fail("it has more than three parts");
  if (!/^[./]/.test(source)) return fail(`"${source}" is not a path, and named volumes are not supported`);
  if (!target.startsWith("/")) return fail(`the target "${target}" is not an absolute path`);
  const options = new Set(optionText.split(",").filter((option) => option !== ""));
  const take = (...names: string[]): boolean => names.filter((name) => options.delete(name)).length > 0;
  const recursiveReadOnly = take("rro");
  const readonly = take("ro") || recursiveReadOnly;
  if (take("rw") && readonly) return fail(`"ro" and "rw" exclude each other`);
  const selinuxRelabel = take("z", "Z");
  take("bind", "rbind");
  const propagations = [...options].filter((option) => option in PROPAGATION);
  if (propagations.length > 1) return fail(`"${propagations.join('" and "')}" exclude each other`);
  const [propagation = "rprivate"] = propagations;
  options.delete(propagation);
  if (options.size > 0)
    return fail(
      `unknown option "${[...options].join(",")}"; known are ro, rw, rro, z, Z, ${Object.keys(PROPAGATION).join(", ")}`,
    );
  return {
    hostPath: resolve(cwd, source),
    containerPath: target,
    readonly,
    recursiveReadOnly,
    selinuxRelabel,
    propagation: PROPAGATION[propagation] ?? PROPAGATION_PRIVATE,
  };
}
