/** restore: by CRIU. Where CRIU cannot work on this machine that is said first, and nothing is touched. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Command, CommandContext } from "../command/context.ts";
import { checkCriu, checkVersion, commonFlags, criuFailure, logRequest, pathsOf, type Paths } from "../command/criu.ts";
import { CommandError } from "../command/failure.ts";
import { atTheEnd, decide, place, type Decided } from "../command/creation.ts";
import type { Planned } from "../context.ts";
import { descriptorsFile, readDescriptors } from "../criu/descriptors.ts";
import { withoutLinks } from "../criu/dump.ts";
import { externalMounts } from "../criu/external.ts";
import type { CriuOptions } from "../criu/options.ts";
import { planMountPoints, planRestore, RESTORE_LOG, type RestoreContext } from "../criu/restore.ts";
import { environment } from "./checkpoint.ts";

/** In the container's state directory. */
const ROOT_PLACE = "criu-root";

export const command: Command = {
  async run(context) {
    const { flags, log, states } = context;
    if (process.geteuid?.() !== 0) log.warning("berth-runc restore is untested with rootless containers");
    const detached = flags.boolean("detach");
    const options = commonFlags(flags);
    const paths = pathsOf(flags);
    const restoration: { context?: RestoreContext } = {};
    const creation = await decide(context, detached, async (decided) => {
      const { spec } = decided.bundle;
      checkCriu();
      for (const flag of ["lsm-profile", "lsm-mount-context"])
        if (flags.text(flag) !== "") checkVersion("3.16", `--${flag}`);
      const descriptors = await descriptorsIn(paths);
      restoration.context = await restoreContext(context, decided, paths, options, descriptors);
      return planRestore(spec, restoration.context) satisfies Planned;
    });
    logRequest(creation.planned.plan, log);
    const front = await context.front();
    if (paths.work !== undefined) mkdirSync(paths.work, { recursive: true, mode: 0o700 });
    try {
      await place(context, { ...creation, restores: true }, front, () => {
        mkdirSync(join(states.path(creation.id), ROOT_PLACE), { mode: 0o700 });
        if (restoration.context !== undefined) front.run(planMountPoints(creation.bundle.spec, restoration.context));
      });
    } catch (error) {
      throw criuFailure(error, paths, RESTORE_LOG, log);
    }
    if (!detached) front.attend(atTheEnd(context, creation));
    return undefined;
  },
};

async function descriptorsIn({ images }: Paths): Promise<string[]> {
  const found = await readDescriptors(images);
  if (found) return found;
  const file = descriptorsFile(images);
  throw new CommandError(
    existsSync(file) ? `${file} is not a list of descriptors` : `open ${file}: no such file or directory`,
  );
}

async function restoreContext(
  { flags, states }: CommandContext,
  { id, bundle, host, cgroup }: Decided,
  paths: Paths,
  options: CriuOptions,
  descriptors: readonly string[],
): Promise<RestoreContext> {
  const { spec, rootfs, directory } = bundle;
  const resolved = new Map<string, string>();
  for (const { destination } of externalMounts(spec, host, cgroup))
    resolved.set(destination, await withoutLinks(rootfs, destination));
  return {
    id,
    bundle: directory,
    rootfs: { kind: "path", path: rootfs },
    rootPlace: join(states.path(id), ROOT_PLACE),
    cgroup: { path: cgroup },
    host,
    place: paths,
    descriptors,
    resolved,
    options: {
      ...options,
      lsmProfile: flags.text("lsm-profile"),
      lsmMountContext: flags.text("lsm-mount-context"),
    },
    env: environment(),
  };
}
