/** A checkpoint by CRIU. */
import { mkdir } from "node:fs/promises";
import { cgroupDirectories } from "@berth/kernel";
import { descriptorsOf, planDump, writeDescriptors } from "@berth/runtime/criu";
import type { oci } from "@berth/spec";
import type { runcOptions } from "@berth/spec/shim";
import { CODE, TtrpcError } from "@berth/ttrpc";
import { checkCriu, criuEnvironment } from "./criu.ts";
import type { Machine } from "./making.ts";
import { inCriusWords } from "./restore.ts";

interface Running {
  readonly pid: number;
  readonly spec: oci.Spec;
  readonly cgroup: string;
}

/** `path`: where containerd wants the images. */
export async function checkpoint(
  { hand, host }: Machine,
  { pid, spec, cgroup }: Running,
  path: string,
  options: runcOptions.CheckpointOptions | undefined,
): Promise<void> {
  await checkCriu(hand);
  const images = options?.imagePath || path;
  const work = options?.workPath || images;
  if (images === "") throw new TtrpcError(CODE.invalidArgument, "path: missing from the request");
  for (const directory of [images, work]) await mkdir(directory, { recursive: true, mode: 0o700 });
  const { v1, unified } = cgroupDirectories(cgroup, host.cgroups);
  const freezer = v1.find(({ hierarchy }) => hierarchy.controllers.includes("freezer"))?.directory ?? unified;
  await writeDescriptors(images, await descriptorsOf(pid));
  const plan = await planDump(
    { pid, spec, cgroup, freezer, host },
    { images, work },
    {
      leaveRunning: options?.exit !== true,
      manageCgroupsMode: options?.cgroupsMode || "ignore",
      tcpEstablished: options?.openTcp === true,
      extUnixSk: options?.externalUnixSockets === true,
      shellJob: options?.terminal === true,
      fileLocks: options?.fileLocks === true,
    },
    criuEnvironment(),
  );
  await inCriusWords(hand.run(plan), work);
}
