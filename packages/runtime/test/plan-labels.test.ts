/** Labels in plans: which file systems get one. No root, no SELinux. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { HostFacts } from "@berth/kernel";
import { v2Host } from "@berth/kernel/testing/hosts";
import { planContainer, type ContainerContext } from "../src/index.ts";
import { shellSpec, withLinux, withProcess } from "./support/machine.ts";

const context = (host: HostFacts): ContainerContext => ({
  id: "c1",
  rootfs: { kind: "overlay", lowers: ["/layers/1"], upper: "/run/upper", work: "/run/work" },
  cgroup: { path: "/pods/p1/c1" },
  host,
  terminal: false,
});

test("SELinux: the label of the next exec, and of file systems that are the container's own", () => {
  const labelled = withProcess({ selinuxLabel: "u:r:container_t:s0" })(
    withLinux({ mountLabel: "u:r:files_t:s0", maskedPaths: ["/sys/firmware"] })(shellSpec("true")),
  );
  assert.throws(
    () => planContainer(labelled, context(v2Host())),
    /process\.selinuxLabel: "u:r:container_t:s0": SELinux is not/,
  );
  const { orders } = planContainer(labelled, context({ ...v2Host(), selinux: true })).plan;
  const written = orders.flatMap(({ order, args }) =>
    order === "write_proc" && args.path === "self/attr/exec" ? [Buffer.from(args.data).toString()] : [],
  );
  assert.deepEqual(written, ["u:r:container_t:s0"]);
  const types = new Map<string, boolean[]>();
  for (const { order, args, because } of orders) {
    if ((order !== "fs_mount" && order !== "tmpfs_like") || !/^(mounts\[|linux\.maskedPaths)/.test(because ?? ""))
      continue;
    const type = order === "fs_mount" ? String(args.fstype) : "tmpfs";
    types.set(type, [...(types.get(type) ?? []), args.options.includes("context=u:r:files_t:s0")]);
  }
  for (const type of ["proc", "sysfs", "mqueue"])
    assert.ok(
      types.get(type)?.every((has) => !has),
      type,
    );
  for (const type of ["tmpfs", "devpts"]) assert.ok(types.get(type)?.every(Boolean), type);
});
