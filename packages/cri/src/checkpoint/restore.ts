/** CreateContainer from a checkpoint: an archive's path in the place of an image, or an image that holds what such an archive does. */
import { copyFile, mkdir, readFile, rm, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { clone } from "@bufbuild/protobuf";
import type { ImageRecord } from "@berth/image";
import { planRootfsMount, type Plan, type Rootfs } from "@berth/runtime";
import { planMountPoints, planRestore, readDescriptors } from "@berth/runtime/criu";
import { cri, type oci } from "@berth/spec";
import { containerDir, type CriContext } from "../context.ts";
import { invalid, precondition } from "../errors.ts";
import type { Progress } from "../progress.ts";
import type { ContainerRecord } from "../store/records.ts";
import { type Documents, FILES, readDocuments } from "./documents.ts";
import { restoredDir } from "./place.ts";
import { checkCriu, findProgram, runProgram, SEARCHED } from "./programs.ts";

const MNT_DETACH = 2n;

export interface Checkpoint {
  /** What the container is to be: what was asked for, with the image that it was made from. */
  readonly config: cri.ContainerConfig;
  readonly image: ImageRecord;
  readonly directory: string;
}

/** Unpacks it. InvalidArgument: it is no checkpoint; FailedPrecondition: CRIU cannot work here. */
export async function openCheckpoint(
  context: CriContext,
  progress: Progress,
  id: string,
  asked: cri.ContainerConfig,
): Promise<Checkpoint> {
  const { signal } = progress;
  const name = asked.image?.image ?? "";
  progress.step("ask criu whether it can work here");
  await checkCriu(context, signal);
  progress.step("unpack the checkpoint");
  const directory = restoredDir(context, id);
  progress.onFailure("remove the checkpoint's files", () => rm(directory, { recursive: true, force: true }));
  await mkdir(directory, { recursive: true, mode: 0o700 });
  if (name.startsWith("/")) await context.images.unpackArchive(name, directory, signal);
  else await copyImage(context, id, name, directory, signal);
  const what = `config.image.image: ${name}`;
  const documents = await readDocuments(directory, what);
  await checkWhole(directory, what);
  progress.step("find the image that it was made from");
  const image = await baseImage(context, documents, signal);
  return { config: mergedConfig(asked, documents, image, name), image, directory };
}

async function copyImage(
  context: CriContext,
  id: string,
  name: string,
  directory: string,
  signal: AbortSignal,
): Promise<void> {
  const key = `${id}-checkpoint`;
  const place = `${directory}.image`;
  await mkdir(place, { mode: 0o700 });
  try {
    const rootfs = await context.images.prepareRootfs(key, name);
    const readOnly = rootfs.kind === "overlay" ? { ...rootfs, upper: undefined } : rootfs;
    await context.hand.run(planRootfsMount(readOnly, place, context.host), { signal });
    await runProgram(context, [await findProgram("cp"), "-a", `${place}/.`, directory], signal);
  } finally {
    await context.hand.run({ orders: [{ order: "unmount", args: { path: place, flags: MNT_DETACH } }] });
    await rmdir(place);
    await context.images.removeRootfs(key);
  }
}

/** What another engine writes and berth does not read is not passed over. */
async function checkWhole(directory: string, what: string): Promise<void> {
  const deleted = await readFile(join(directory, FILES.deleted), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "[]";
    throw error;
  });
  if (deleted.trim() !== "[]")
    throw invalid(
      `${what}: lists files to be deleted (${FILES.deleted}), which berth takes only as whiteouts of ${FILES.changes}`,
    );
  const images = await stat(join(directory, FILES.images)).catch(() => undefined);
  if (images?.isDirectory() !== true) throw invalid(`${what}: is no checkpoint: it has no directory ${FILES.images}`);
}

/** By digest, else by name; pulled where the node does not have it. */
async function baseImage(context: CriContext, { config }: Documents, signal: AbortSignal): Promise<ImageRecord> {
  const { rootfsImageRef = "", rootfsImageName = "" } = config;
  const names = [rootfsImageRef, rootfsImageName].filter((name) => name !== "");
  for (const name of names) {
    const found = context.images.find(name);
    if (found) return found;
  }
  const name = names.find((one) => !one.startsWith("sha256:"));
  if (name === undefined) throw invalid("config.image.image: the checkpoint does not say which image it was made from");
  return await context.images.pull(name, { signal });
}

function mergedConfig(
  asked: cri.ContainerConfig,
  { config, status }: Documents,
  image: ImageRecord,
  name: string,
): cri.ContainerConfig {
  const merged = clone(cri.ContainerConfigSchema, asked);
  if (merged.image) merged.image.image = config.rootfsImageName || (image.tags[0] ?? image.id);
  merged.annotations = {
    ...status.annotations,
    ...asked.annotations,
    restored: "true",
    checkpointedAt: config.checkpointedTime,
    checkpointImage: asked.image?.userSpecifiedImage || name,
  };
  return merged;
}

/** Before the first mount of the root file system: what the container had changed is there again, and its log so far. */
export async function applyCheckpoint(
  context: CriContext,
  { directory }: Checkpoint,
  record: ContainerRecord,
  rootfs: Rootfs,
  signal: AbortSignal,
): Promise<void> {
  if (rootfs.kind !== "overlay" || rootfs.upper === undefined || rootfs.idmap)
    throw precondition("restore: berth needs an overlay of its own for it, in a pod without a user namespace");
  await context.images.unpackArchive(join(directory, FILES.changes), rootfs.upper, signal);
  if (record.logPath === "") return;
  await copyFile(join(directory, FILES.log), record.logPath).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
}

/** Makes the mount points; the plan restores the process up to where it would run. */
export async function planRestored(
  context: CriContext,
  { directory }: Checkpoint,
  record: ContainerRecord,
  spec: oci.Spec,
  rootfs: Rootfs,
): Promise<Plan> {
  const bundle = containerDir(context, record.id);
  const rootPlace = join(bundle, "rootfs");
  await mkdir(rootPlace, { recursive: true, mode: 0o700 });
  const place = { images: join(directory, FILES.images), work: directory };
  const restoration = {
    id: record.id,
    bundle,
    rootfs,
    rootPlace,
    cgroup: { path: record.cgroupPath },
    host: context.host,
    place,
    descriptors: await descriptorsIn(place.images),
    options: { manageCgroupsMode: "ignore" },
    env: [`PATH=${SEARCHED}`],
  };
  await context.hand.run(planMountPoints(spec, restoration));
  const { plan, warnings } = planRestore(spec, restoration);
  for (const warning of warnings) context.log.warn({ container: record.id }, warning);
  return plan;
}

async function descriptorsIn(images: string): Promise<string[]> {
  const found = await readDescriptors(images);
  if (found) return found;
  throw invalid(`config.image.image: the checkpoint has no list of descriptors (descriptors.json)`);
}
