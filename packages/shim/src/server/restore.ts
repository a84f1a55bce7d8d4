/** A container from a checkpoint: restored by CRIU up to where it would go on, which is its start. */
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Rootfs } from "@berth/runtime";
import { DESCRIPTORS_FILE, planMountPoints, planRestore } from "@berth/runtime/criu";
import type { Plan } from "@berth/kernel";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { checkCriu, criuEnvironment } from "./criu.ts";
import type { Machine, MakingRequest } from "./making.ts";

export async function planRestored(
  { hand, host, log }: Machine,
  { id, bundle, spec, dir, checkpoint: images }: MakingRequest,
  rootfs: Rootfs,
  cgroup: string,
): Promise<Plan> {
  await checkCriu(hand);
  const rootPlace = join(dir, "rootfs");
  await mkdir(rootPlace, { mode: 0o700 });
  const restoration = {
    id,
    bundle,
    rootfs,
    rootPlace,
    cgroup: { path: cgroup },
    host,
    place: { images, work: dir },
    descriptors: await descriptorsOf(images),
    options: { manageCgroupsMode: "ignore" },
    env: criuEnvironment(),
  };
  await hand.run(planMountPoints(spec, restoration));
  const { plan, warnings } = planRestore(spec, restoration);
  for (const warning of warnings) log(`container ${id}: ${warning}`);
  return plan;
}

async function descriptorsOf(images: string): Promise<string[]> {
  const file = join(images, DESCRIPTORS_FILE);
  try {
    const value: unknown = JSON.parse(await readFile(file, "utf8"));
    if (Array.isArray(value) && value.every((one) => typeof one === "string")) return value;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" && !(error instanceof SyntaxError)) throw error;
  }
  throw new TtrpcError(CODE.invalidArgument, `checkpoint: ${file} is no list of descriptors; is it a checkpoint?`);
}
