/** Orders on layers' images and on quotas: what they do on kernels and file systems that lack what they need. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { carryOut, order, privateMounts, scratch, shell, succeed } from "./bosun.ts";

const loops = (): string => execFileSync("losetup", ["--list", "--noheadings"], { encoding: "utf8" });

test("an image is mounted by a loop device that goes with the mount", async (t) => {
  if (spawnSync("sh", ["-c", "command -v mkfs.erofs losetup && test -e /dev/loop-control"]).status !== 0)
    return t.skip("needs mkfs.erofs, losetup and loop devices");
  const dir = scratch(t);
  mkdirSync(join(dir, "tree"));
  mkdirSync(join(dir, "at"));
  writeFileSync(join(dir, "tree/file"), "content");
  const image = join(dir, "image");
  const made = spawnSync("mkfs.erofs", [image, join(dir, "tree")], { encoding: "utf8" });
  assert.equal(made.status, 0, made.stderr);
  const args = { image, target: join(dir, "at"), root: "", blocks: 0n };
  const { said } = await succeed([
    ...privateMounts,
    order("mount_image", args),
    shell(`cat ${dir}/at/file; echo x 2>/dev/null >${dir}/at/file || echo ' read-only'`),
  ]);
  assert.match(said, /content read-only/);
  assert.doesNotMatch(loops(), new RegExp(image));
  const refused = await carryOut([...privateMounts, order("mount_image", { ...args, target: join(dir, "absent") })]);
  assert.equal(refused.code, "ENOENT", refused.detail);
  const strange = await carryOut([order("mount_image", { ...args, root: "no hash" })]);
  assert.equal(strange.code, "EINVAL");
  writeFileSync(join(dir, "nothing"), Buffer.alloc(8192));
  const none = await carryOut([...privateMounts, order("mount_image", { ...args, image: join(dir, "nothing") })]);
  assert.equal(none.code, "EINVAL", none.detail);
  assert.doesNotMatch(loops(), new RegExp(dir), "devices of what cannot be mounted");
  return undefined;
});

test("what a file system lacks is said: fs-verity, project quotas", async (t) => {
  const dir = scratch(t);
  writeFileSync(join(dir, "file"), "x");
  mkdirSync(join(dir, "tmpfs"));
  const tmpfs = [
    ...privateMounts,
    order("mount", { source: "t", target: join(dir, "tmpfs"), fstype: "tmpfs", flags: 0n, data: "" }),
  ];
  const quota = await carryOut([...tmpfs, order("project_quota", { path: join(dir, "tmpfs"), project: 5, bytes: 1n })]);
  assert.ok(["ENOSYS", "ENOTTY", "ESRCH", "EOPNOTSUPP"].includes(quota.code), quota.code);
  const verity = await carryOut([
    ...tmpfs,
    order("write_file", { path: join(dir, "file"), data: Buffer.from("y") }),
    order("fs_verity", { path: join(dir, "absent"), enable: 1 }),
  ]);
  assert.equal(verity.code, "ENOENT");
  await succeed([
    order("drop_quota", { path: join(dir, "absent") }),
    order("drop_quota", { path: dir }),
    order("drop_quota", { path: join(dir, "file") }),
  ]);
  assert.equal(readFileSync(join(dir, "file"), "utf8"), "x".replace("x", "y"));
});
