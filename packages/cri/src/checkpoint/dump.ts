/** The state of a running container, into a directory: its memory by CRIU, and what it has changed in its root file system. */
import { copyFile, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { cgroupDirectories, type Order } from "@berth/kernel";
import { descriptorsOf, planDump, writeDescriptors } from "@berth/runtime/criu";
import { runtimeCommand } from "@berth/runtime";
import type { oci } from "@berth/spec";
import { callOfContainer } from "../runtimes/oci-command.ts";
import { kindOf } from "../runtimes/find.ts";
import { rootfsOf } from "../container/rootfs.ts";
import type { CriContext } from "../context.ts";
import { precondition } from "../errors.ts";
import type { Container } from "../store/records.ts";
import { FILES, writeDocuments } from "./documents.ts";
import { inCriusWords } from "./place.ts";
import { findProgram, PROGRAM_TIMEOUT, runProgram, SEARCHED } from "./programs.ts";

/** The upper directory as it is, until it has been made a layer. */
const RAW = "upper.tar";

export interface DumpRequest {
  readonly container: Container;
  readonly spec: oci.Spec;
  /** Of the caller's own; made here. */
  readonly directory: string;
  /** ms; 0: none. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** FailedPrecondition with CRIU's words; the container runs on in any case. */
export async function dump(context: CriContext, request: DumpRequest): Promise<void> {
  const { container, spec, directory, signal } = request;
  const upper = upperOf(context, container);
  const tar = await findProgram("tar");
  const images = join(directory, FILES.images);
  await mkdir(images, { recursive: true, mode: 0o700 });
  const archive = [tar, ...ARCHIVE_FLAGS, "-C", upper, "-cf", join(directory, RAW), "."];
  await kindOf(context, container.record).dump(context, request, images, archive);
  await context.images.writeChanges(join(directory, RAW), join(directory, FILES.changes), signal);
  await rm(join(directory, RAW));
  await writeDocuments(context, container, spec, directory);
  if (container.record.logPath !== "") await copyIfThere(container.record.logPath, join(directory, FILES.log));
}

const ARCHIVE_FLAGS = ["--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse"];

function upperOf(context: CriContext, container: Container): string {
  const rootfs = rootfsOf(context, container);
  const what = `container "${container.record.id}"`;
  if (rootfs.kind !== "overlay" || rootfs.upper === undefined)
    throw precondition(`${what}: what it has changed is told by its overlay, and the native snapshotter makes none`);
  if (rootfs.idmap) throw precondition(`${what}: criu cannot restore containers of pods with a user namespace`);
  return rootfs.upper;
}

export async function dumpInProcess(
  context: CriContext,
  { container, spec, directory, timeoutMs, signal }: DumpRequest,
  images: string,
  archive: readonly string[],
): Promise<void> {
  const { pid, cgroupPath } = container.record;
  const { v1, unified } = cgroupDirectories(cgroupPath, context.host.cgroups);
  const freezer = v1.find(({ hierarchy }) => hierarchy.controllers.includes("freezer"))?.directory ?? unified;
  const target = { pid, spec, cgroup: cgroupPath, freezer, host: context.host };
  await writeDescriptors(images, await descriptorsOf(pid));
  const options = {
    leaveRunning: true,
    manageCgroupsMode: "ignore",
    timeoutMs,
    meanwhile: [programOrder(archive)],
  };
  const plan = await planDump(target, { images, work: directory }, options, [`PATH=${SEARCHED}`]);
  await inCriusWords(context.hand.run(plan, { signal, timeoutMs: PROGRAM_TIMEOUT }), directory);
}

function programOrder(argv: readonly string[]): Order {
  const args = {
    path: argv[0] ?? "",
    argv,
    env: [`PATH=${SEARCHED}`],
    inheritEnv: 0,
    timeoutMs: PROGRAM_TIMEOUT,
    state: [],
  };
  return { order: "hook", args, because: "the root file system's changes" };
}

/** Another runtime's container stands still by its own command, as under containerd's. */
export async function dumpByBinary(
  context: CriContext,
  { container: { record }, directory, timeoutMs, signal }: DumpRequest,
  images: string,
  archive: readonly string[],
): Promise<void> {
  const call = callOfContainer(record, join(directory, "runtime.json"));
  const run = async (timeout: number, ...words: string[]): Promise<void> => {
    const argv = runtimeCommand(call, ...words);
    const { status, stderr } = await context.hand.spawn({ argv, env: call.env }, { signal, timeoutMs: timeout });
    if (status !== 0) throw precondition(`OCI runtime: ${words[0]}: ${Buffer.from(stderr).toString().trim()}`);
  };
  const options = ["--image-path", images, "--work-path", directory, "--leave-running"];
  await run(PROGRAM_TIMEOUT, "pause", record.id);
  try {
    await run(timeoutMs || PROGRAM_TIMEOUT, "checkpoint", ...options, record.id);
    await runProgram(context, archive, signal);
  } finally {
    await context.hand.spawn({ argv: runtimeCommand(call, "resume", record.id), env: call.env });
    await rm(join(directory, "runtime.json"), { force: true });
  }
}

async function copyIfThere(from: string, to: string): Promise<void> {
  try {
    await copyFile(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
