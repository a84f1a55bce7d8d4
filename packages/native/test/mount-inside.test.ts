/** Orders that make and change mounts by what is in the container already; all in mount namespaces of the tests' own. */
import { chmodSync, mkdirSync, symlinkSync } from "node:fs";
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { ATTR, order, privateMounts, refuse, root, scratch, shell, succeed } from "./bosun.ts";

const tmpfs = (slot: number, more: { options?: string[]; attrs?: bigint } = {}) =>
  order("fs_mount", { slot, fstype: "tmpfs", source: "", options: [], attrs: 0n, fdKeys: [], fdSlots: [], ...more });
const attach = (slot: number, target: string) => order("attach_host", { slot, target });

test("tmpfs_like: the mode of what is covered, links followed inside the root; the usual one where there is nothing", async (t) => {
  const dir = scratch(t);
  mkdirSync(join(dir, "there"));
  chmodSync(join(dir, "there"), 0o2710);
  symlinkSync("/there", join(dir, "link"));
  const like = (path: string) =>
    order("tmpfs_like", { slot: 1, source: "mine", options: [], attrs: ATTR.NODEV, root: 0, path });
  for (const [path, mode] of [
    ["/there", "2710"],
    ["/link", "2710"],
    ["/absent", "1777"],
  ] as const) {
    const looked = shell(`stat -c %a ${dir} >&2; grep -o ' rw,nodev,[^ ]* - tmpfs mine .*' /proc/self/mountinfo >&2`);
    const { said } = await succeed([...privateMounts, root(0, dir), like(path), attach(1, dir), looked]);
    assert.match(said, new RegExp(`^${mode}\\n rw,nodev,relatime - tmpfs mine rw`), path);
  }
  symlinkSync("/link-to-itself", join(dir, "link-to-itself"));
  await refuse([root(0, dir), like("/link-to-itself")], "ELOOP", /^openat2 \/link-to-itself$/);
});

test("clone_in: what is mounted in the root by now, links followed inside it", async (t) => {
  const dir = scratch(t);
  for (const name of ["from", "to"]) mkdirSync(join(dir, name));
  symlinkSync("/from", join(dir, "link"));
  const clone = (path: string, recursive: number) => order("clone_in", { slot: 2, root: 0, path, recursive });
  const first = [...privateMounts, root(0, dir), tmpfs(1, { options: ["mode=0700"] }), attach(1, join(dir, "from"))];
  for (const path of ["/from", "/link"]) {
    const { said } = await succeed([
      ...first,
      clone(path, 1),
      attach(2, join(dir, "to")),
      shell(`stat -c %a ${dir}/to >&2`),
    ]);
    assert.equal(said, "700\n", path);
  }
  await refuse([...first, clone("/absent", 0)], "ENOENT", /^openat2 \/absent$/);
});

test("mount_attr_locked: what the mount has stays; what was to go by name is refused", async (t) => {
  const dir = scratch(t);
  const made = [...privateMounts, tmpfs(0, { attrs: ATTR.RDONLY | ATTR.NODEV | ATTR.NOATIME })];
  const change = (set: bigint, clear: bigint, refused = 0n) =>
    order("mount_attr_locked", { slot: 0, set, clear, refuse: refused });
  const all = ATTR.RDONLY | ATTR.NODEV | ATTR.NOEXEC;
  const { said } = await succeed([
    ...made,
    change(ATTR.NOSUID, all),
    attach(0, dir),
    shell(`grep -o ' ro,[^ ]* - tmpfs' /proc/self/mountinfo >&2`),
  ]);
  assert.match(said, /^ ro,nosuid,nodev,noatime - tmpfs$/m);
  await refuse([...made, change(0n, all, ATTR.NODEV)], "EPERM", /^cannot clear locked flags 0x4$/);
  await refuse([...made, change(0n, all | ATTR.ATIME)], "EPERM", /^cannot change locked atime flags 0x10$/);
  await succeed([...made, change(ATTR.NOATIME, ATTR.ATIME)]);
});
