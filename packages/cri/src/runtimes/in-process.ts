/** Containers that berthd makes itself: OCI config → plan → bosun. */
import { writeFile } from "node:fs/promises";
import { compileSeccomp, type Plan } from "@berth/kernel";
import { planContainer, planExec } from "@berth/runtime";
import { oci } from "@berth/spec/oci";
import { joinScope } from "../cgroups.ts";
import { rootfsOf } from "../container/rootfs.ts";
import { containerDir, type CriContext } from "../context.ts";
import { isRunc } from "../handlers.ts";
import type { Progress } from "../progress.ts";
import type { Container } from "../store/records.ts";
import { hostCgroup, releaseCgroup } from "./host-cgroup.ts";
import type { Creation, ExecCall, RuntimeKind } from "./kind.ts";
import { ownPods } from "./own-pods.ts";

export const inProcess: RuntimeKind = {
  ...ownPods,
  ...hostCgroup,
  name: "in-process",
  serves: (handler) => isRunc(handler) && handler.options.binary === undefined,
  check: () => Promise.resolve(),
  features: (_context, _handler, own) => Promise.resolve(own),
  recordOf: () => Promise.resolve({}),
  adapt: (_context, spec) => spec,
  leavesHooks: true,
  plan,
  subreaper: false,
  told: (_context, _record, work) => work,
  made,
  release: (context, record) => releaseCgroup(context, record),
  exec,
  dump: async (...dumped) => (await import("../checkpoint/dump.ts")).dumpInProcess(...dumped),
  programOf: () => "berth",
  explain: (context, container, spec) =>
    planContainer(spec, {
      id: container.record.id,
      rootfs: rootfsOf(context, container),
      cgroup: { path: container.record.cgroupPath },
      host: context.host,
      terminal: container.record.config.tty,
    }).plan,
};

async function plan(context: CriContext, creation: Creation): Promise<Plan> {
  const { container, spec, rootfs, checkpoint } = creation;
  const { record } = container;
  if (checkpoint) {
    const { planRestored } = await import("../checkpoint/restore.ts");
    return await planRestored(context, checkpoint, record, spec, rootfs);
  }
  const made = planContainer(spec, {
    id: record.id,
    rootfs,
    cgroup: { path: record.cgroupPath },
    host: context.host,
    seccomp: await compileSeccomp(spec.linux?.seccomp, `${context.paths.root}/seccomp`),
    terminal: record.config.tty,
    bundle: containerDir(context, record.id),
  });
  for (const warning of made.warnings) context.log.warn({ container: record.id }, warning);
  return made.plan;
}

async function made(context: CriContext, progress: Progress, { container, spec, checkpoint }: Creation): Promise<void> {
  const { record } = container;
  if (checkpoint) {
    const { withTimeNamespace } = await import("@berth/runtime/criu");
    container.spec = withTimeNamespace(spec, record.pid);
    await writeFile(`${containerDir(context, record.id)}/config.json`, oci.compactSpec(container.spec));
  }
  if (!record.unit) return;
  progress.step("make its cgroup a scope of systemd's");
  const { annotations, linux } = spec;
  await joinScope(context, record, { pid: record.pid, resources: linux?.resources, annotations }, progress.signal);
}

async function exec(
  context: CriContext,
  { record }: Container,
  spec: oci.Spec,
  process: oci.Process,
): Promise<ExecCall> {
  const seccomp = await compileSeccomp(spec.linux?.seccomp, `${context.paths.root}/seccomp`);
  const target = { pid: record.pid, spec, cgroup: { path: record.cgroupPath } };
  const options = { host: context.host, seccomp, terminal: process.terminal === true };
  return {
    plan: planExec(target, process, options).plan,
    told: (work) => work,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
