/** Containers of handlers with a shim (shim v2): any runtime_type that is not runc's, or a path. */
import { killCgroup, type Plan } from "@berth/kernel";
import { type Fifos, fifosIn, packJson, planShimProcess, statsOf, type TaskService } from "@berth/shim";
import { planRootfsMount, type Rootfs } from "@berth/runtime";
import { removeCgroup } from "../../cgroups.ts";
import { placesIn } from "../../checkpoint/place.ts";
import { resourcesOf } from "../../container/resources.ts";
import type { CriContext } from "../../context.ts";
import { precondition } from "../../errors.ts";
import { isRunc } from "../../handlers.ts";
import type { Progress } from "../../progress.ts";
import type { Container, ContainerRecord } from "../../store/records.ts";
import { hostCgroup } from "../host-cgroup.ts";
import type { Creation, RuntimeKind } from "../kind.ts";
import { withinHost } from "../oci-command.ts";
import { bundleOf, NAMESPACE, shimOf, writeBundle } from "./bundle.ts";
import { dumpByShim } from "./dump.ts";
import { endTask, killTask } from "./end.ts";
import { execByShim } from "./exec.ts";
import { shimFeatures } from "./features.ts";
import { shimPods } from "./pods.ts";
import { closeShims, inShimsWords, shimsOf, unlessGone } from "./shims.ts";
import { findShim, shimOptions, startShim } from "./start.ts";
import { sized } from "./terminal.ts";
import { inTheShimsWords } from "./words.ts";

const SIGKILL = 9;

export const shim: RuntimeKind = {
  ...shimPods,
  name: "shim",
  serves: (handler) => !isRunc(handler),
  check: async (_context, handler) => void (await findShim(handler)),
  features: shimFeatures,
  recordOf: async (_context, handler) => ({
    runtime: "shim",
    binary: { path: await findShim(handler), root: "" },
  }),
  adapt: (context, spec, userns) => {
    const own = withinHost(spec, context.host, userns);
    return { ...own, ...(own.process && { process: sized(own.process) }) };
  },
  leavesHooks: false,
  plan,
  subreaper: false,
  oom: hostCgroup.oom,
  told: (_context, _record, work) => inTheShimsWords(work),
  made,
  pidOf: (_context, record) => Promise.resolve(record.pid),
  signal,
  kill,
  release: async (context, record) => {
    await endTask(context, record.id, bundleOf(context, record.sandboxId, record.id));
    await killCgroup(record.cgroupPath, context.host);
    await removeCgroup(context, record);
  },
  exec: execByShim,
  update: async (context, { record }, linux, _merged, aborted) => {
    const service = await serviceOf(context, record);
    const resources = packJson("LinuxResources", resourcesOf(context, linux));
    const updated = service.call("update", { id: record.id, resources }, { signal: aborted });
    await inShimsWords(`container "${record.id}"`, updated);
  },
  stats: async (context, record) => {
    const service = await connected(context, record);
    const answer = service && (await unlessGone(service.call("stats", { id: record.id })));
    return statsOf(answer?.stats);
  },
  detail: hostCgroup.detail,
  dump: dumpByShim,
  programOf: ({ binary }) => binary?.path ?? "",
  explain: (_context, { record }) => {
    throw precondition(
      `container "${record.id}" was made by the shim ${record.binary?.path}; how, only that could say`,
    );
  },
  close: closeShims,
};

const fifosOf = (context: CriContext, { id, sandboxId, config }: ContainerRecord): Fifos =>
  fifosIn(`${bundleOf(context, sandboxId, id)}/io`, "init", config.tty, config.stdin);

async function plan(context: CriContext, { container, handler, spec }: Creation): Promise<Plan> {
  const { record } = container;
  const bundle = bundleOf(context, record.sandboxId, record.id);
  await writeBundle(bundle, spec);
  const found = await startShim(context, handler, record.id, bundle);
  return planShimProcess({
    shim: found,
    namespace: NAMESPACE,
    id: record.id,
    execId: "",
    terminal: record.config.tty,
    fifos: fifosOf(context, record),
    parks: true,
  });
}

/** The stand-in has opened its ends of the FIFOs: the shim can open its own. */
async function made(context: CriContext, progress: Progress, creation: Creation): Promise<void> {
  const { container, handler, rootfs, userns, checkpoint } = creation;
  const { record } = container;
  const { id, config } = record;
  const bundle = bundleOf(context, record.sandboxId, id);
  // Whose owners are mapped only the host can mount, by file descriptors: it is there when the shim looks.
  if (userns !== undefined)
    await context.hand.run(planRootfsMount(rootfs, `${bundle}/rootfs`, context.host, { userns, attributes: 0n }));
  const service = await serviceOf(context, record);
  const { stdin = "", stdout = "", stderr = "" } = fifosOf(context, record);
  const request = {
    id,
    bundle,
    rootfs: userns === undefined ? mountsOf(rootfs) : [],
    terminal: config.tty,
    stdin,
    stdout,
    stderr,
    options: shimOptions(handler),
    ...(checkpoint && { checkpoint: placesIn(checkpoint.directory).images }),
  };
  const created = service.call("create", request, { signal: progress.signal });
  record.pid = (await inShimsWords(`container "${id}"`, created)).pid;
}

/** As mount(8) takes them: the shim mounts them at the bundle's rootfs, and unmounts them. */
function mountsOf(rootfs: Rootfs) {
  if (rootfs.kind === "path") return [{ type: "bind", source: rootfs.path, options: ["rbind", "rw"] }];
  const { lowers, upper, work, volatile } = rootfs;
  const [only = ""] = lowers;
  if (upper === undefined && lowers.length === 1) return [{ type: "bind", source: only, options: ["rbind", "ro"] }];
  const options = [`lowerdir=${lowers.join(":")}`];
  if (upper !== undefined) options.push(`upperdir=${upper}`, `workdir=${work ?? ""}`);
  if (upper !== undefined && volatile === true) options.push("volatile");
  return [{ type: "overlay", source: "overlay", options }];
}

async function connected(context: CriContext, record: ContainerRecord): Promise<TaskService | undefined> {
  const found = await shimOf(bundleOf(context, record.sandboxId, record.id));
  return found && (await shimsOf(context).connect(found));
}

async function serviceOf(context: CriContext, record: ContainerRecord): Promise<TaskService> {
  const service = await connected(context, record);
  if (!service) throw precondition(`container "${record.id}": its shim has ended`);
  return service;
}

async function signal(context: CriContext, { record }: Container, number: number): Promise<void> {
  const service = await connected(context, record);
  if (service) await unlessGone(service.call("kill", { id: record.id, signal: number }));
}

/** What stands for one that was not started yet, or whose shim does not answer, is ended itself: the rest is release's. */
async function kill(context: CriContext, { link, record }: Container): Promise<void> {
  if (record.phase === "exited" || !link) return;
  const runs = record.phase === "running" || record.phase === "starting";
  const service = runs ? await connected(context, record) : undefined;
  if (!service || !(await killTask(service, record.id))) await hostCgroup.signal(context, { link, record }, SIGKILL);
}
