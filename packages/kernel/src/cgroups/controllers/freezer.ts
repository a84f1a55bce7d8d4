/** freezer: stops and resumes a whole cgroup (freezer-subsystem.rst; cgroup-v2.rst "cgroup.freeze"). */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { HostFacts } from "../../host.ts";
import { cgroupDirectories, v1Directory } from "../hierarchy.ts";

/** Lets a frozen cgroup run again, so that signals reach its processes. A cgroup that is not there is success. */
export async function thaw(path: string, host: HostFacts): Promise<void> {
  const directories = cgroupDirectories(path, host.cgroups);
  const v1 = v1Directory(directories, "freezer");
  const file =
    v1 !== undefined
      ? join(v1, "freezer.state")
      : directories.unified === undefined
        ? undefined
        : join(directories.unified, "cgroup.freeze");
  if (file === undefined) return;
  await writeFile(file, v1 === undefined ? "0" : "THAWED").catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" && error.code !== "ENODEV") throw error;
  });
}
