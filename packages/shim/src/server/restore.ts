/** A container made of a checkpoint: CRIU restores its processes, which run on when it is started. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Plan } from "@berth/kernel";
import type { Rootfs } from "@berth/runtime";
import { criuWords, descriptorsFile, planMountPoints, planRestore, readDescriptors } from "@berth/runtime/criu";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { checkCriu, criuEnvironment } from "./criu.ts";
import type { Machine, MakingRequest } from "./making.ts";

/** FailedPrecondition: CRIU cannot work here; InvalidArgument: `checkpoint` is none of berth's. */
export async function planRestored(
  { hand, host, log }: Machine,
  { id, bundle, spec, dir, checkpoint }: MakingRequest,
  rootfs: Rootfs,
  cgroup: string,
): Promise<Plan> {
  await checkCriu(hand);
  const rootPlace = join(dir, "criu-root");
  await mkdir(rootPlace, { mode: 0o700 });
  const restoration = {
    id,
    bundle,
    rootfs,
    rootPlace,
    cgroup: { path: cgroup },
    host,
    place: { images: checkpoint, work: dir },
    descriptors: await descriptorsIn(checkpoint),
    options: { manageCgroupsMode: "ignore" },
    env: criuEnvironment(),
  };
  await hand.run(planMountPoints(spec, restoration));
  const { plan, warnings } = planRestore(spec, restoration);
  for (const warning of warnings) log(`container ${id}: ${warning}`);
  return plan;
}

/** FailedPrecondition for what CRIU fails at; `work`: where its log is. */
export async function inCriusWords<T>(made: Promise<T>, work: string): Promise<T> {
  try {
    return await made;
  } catch (error) {
    const words = await criuWords(error, work);
    throw words === undefined ? error : new TtrpcError(CODE.failedPrecondition, words);
  }
}

async function descriptorsIn(images: string): Promise<string[]> {
  const found = await readDescriptors(images);
  if (found) return found;
  throw new TtrpcError(
    CODE.invalidArgument,
    `checkpoint: ${descriptorsFile(images)} is no list of descriptors, as berth's have one`,
  );
}
