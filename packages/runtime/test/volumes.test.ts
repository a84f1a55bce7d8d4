/** Real containers and their files: binds, propagation, overlays. */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { oci } from "@berth/spec";
import { allCapabilities, container, execIn, lines, machine, useMachine, withMount } from "./support/containers.ts";
import { makeRootfs, shellSpec, withLinux, withProcess } from "./support/machine.ts";

useMachine();

container("a read-only root refuses writes but has its mount points and devices", async () => {
  const out = await lines(
    "touch /x 2>/dev/null || echo refused; echo x > /dev/null; touch /dev/shm/ok && echo ok; touch /vol/ok && echo ok",
    (spec) =>
      withMount(
        { ...spec, root: { path: "rootfs", readonly: true } },
        { destination: "/vol", type: "tmpfs", source: "tmpfs", options: [] },
      ),
  );
  assert.deepEqual(out, ["refused", "ok", "ok"]);
});

container("binds: files and directories, read-only also recursively, propagation away from the host", async () => {
  const dir = await mkdtemp(join(machine().directory, "volume-"));
  await mkdir(join(dir, "below"));
  await writeFile(join(dir, "file"), "volume");
  await machine().hand.run({
    orders: [
      {
        order: "fs_mount",
        args: { slot: 0, fstype: "tmpfs", source: "t", options: [], attrs: 0n, fdKeys: [], fdSlots: [] },
      },
      { order: "attach_host", args: { slot: 0, target: join(dir, "below") } },
    ],
  });
  try {
    const bind = (destination: string, source: string, ...options: string[]): oci.Mount => ({
      destination,
      type: "bind",
      source,
      options,
    });
    const out = await lines(
      "cat /etc/file; for d in rw ro rro; do for p in $d $d/below; do touch /$p/x 2>/dev/null && echo $p yes || echo $p no; done; done; ls /one/below; touch /etc/file 2>/dev/null || echo no",
      (spec) =>
        withMount(
          spec,
          bind("/etc/file", join(dir, "file"), "bind", "ro"),
          bind("/rw", dir, "rbind", "rprivate"),
          bind("/ro", dir, "rbind", "ro"),
          bind("/rro", dir, "rbind", "rro", "rprivate"),
          bind("/one", dir, "bind"),
        ),
    );
    assert.deepEqual(out, ["volumerw yes", "rw/below yes", "ro no", "ro/below yes", "rro no", "rro/below no", "no"]);
    const inner = await machine().run("mount -t tmpfs inner /rw/below && echo mounted", (spec) =>
      withProcess({ capabilities: allCapabilities() })(withMount(spec, bind("/rw", dir, "rbind", "rslave"))),
    );
    assert.equal(inner.stdout, "mounted\n", inner.stderr);
    assert.ok(
      !(await readFile("/proc/self/mountinfo", "utf8")).includes(" inner "),
      "what the container mounts stays inside",
    );
  } finally {
    await machine().hand.run({ orders: [{ order: "unmount", args: { path: join(dir, "below"), flags: 2n } }] });
  }
});

container("propagation with the host, where it was asked for: to the container, and both ways", async () => {
  const dir = await mkdtemp(join(machine().directory, "shared-"));
  await mkdir(join(dir, "host"));
  await mkdir(join(dir, "guest"));
  const share = [0x1000n, 1n << 20n].map(
    (flags, index) =>
      ({ order: "mount", args: { source: index === 0 ? dir : "", target: dir, fstype: "", flags, data: "" } }) as const,
  );
  await machine().hand.run({ orders: share });
  const seenHere = async (): Promise<boolean> =>
    (await readFile("/proc/self/mountinfo", "utf8")).includes(` ${dir}/guest `);
  const script = "mount -t tmpfs inner /vol/guest && cat /proc/self/mountinfo | grep -c /vol/guest; sleep 60";
  try {
    for (const [mode, rootfsPropagation, out] of [
      ["rslave", "rslave", false],
      ["rshared", "rshared", true],
    ] as const) {
      const mounts: oci.Mount[] = [{ destination: "/vol", type: "bind", source: dir, options: ["rbind", mode] }];
      const running = await machine().create(
        withLinux({ rootfsPropagation })(
          withProcess({ capabilities: allCapabilities() })(withMount(shellSpec(script), ...mounts)),
        ),
      );
      try {
        await running.link.start();
        await machine().hand.run({
          orders: [
            {
              order: "mount",
              args: { source: "later", target: join(dir, "host"), fstype: "tmpfs", flags: 0n, data: "" },
            },
          ],
        });
        const inside = await execIn(
          running,
          "until grep -q /vol/guest /proc/self/mountinfo; do :; done; grep -c ' /vol/host ' /proc/self/mountinfo",
          { capabilities: allCapabilities() },
        );
        assert.equal(inside.stdout, "1\n", `${mode}: what the host mounts later arrives`);
        assert.equal(await seenHere(), out, `${mode}: what the container mounts gets out`);
      } finally {
        await machine().end(running);
        await machine().hand.run({
          orders: ["host", "guest"].map(
            (name) => ({ order: "unmount", args: { path: join(dir, name), flags: 2n } }) as const,
          ),
        });
      }
    }
  } finally {
    await machine().hand.run({ orders: [{ order: "unmount", args: { path: dir, flags: 2n } }] });
  }
});

container("an overlay of layers, in each way that kernels know", async (t) => {
  const dir = await mkdtemp(join(machine().directory, "overlay-"));
  const make = async (name: string) => {
    await mkdir(join(dir, name), { recursive: true });
    return join(dir, name);
  };
  const top = await make("top,layer:1");
  await writeFile(join(top, "which"), "top");
  await writeFile(join(machine().rootfs, "which"), "bottom");
  t.after(() => writeFile(join(machine().rootfs, "which"), ""));
  const ways = {
    "lowerdir+ by path": {},
    "lowerdir+ by descriptor": { lowerdirPlus: false },
    "mount(2)": { lowerdirPlus: false, lowerdirFd: false },
  };
  for (const [way, features] of Object.entries(ways)) {
    const host = { ...machine().host, features: { ...machine().host.features, ...features } };
    for (const volatile of [false, true]) {
      // An upper that was volatile cannot be mounted again.
      const [upper, work] = [await make(`upper ${way} ${volatile}`), await make(`work ${way} ${volatile}`)];
      const out = await lines("cat /which; touch /written && echo ok", undefined, {
        host,
        rootfs: { kind: "overlay", lowers: [top, machine().rootfs], upper, work, volatile },
      });
      assert.deepEqual(out, ["topok"], way);
    }
    const readOnly = await lines("cat /which; touch /written 2>/dev/null || echo refused", undefined, {
      host,
      rootfs: { kind: "overlay", lowers: [top, await prepared(dir)] },
    });
    assert.deepEqual(readOnly, ["toprefused"], way);
  }
  const single = await lines("cat /which; touch /written 2>/dev/null || echo refused", undefined, {
    rootfs: { kind: "overlay", lowers: [await prepared(dir)] },
  });
  assert.deepEqual(single, ["preparedrefused"]);
});

/** A root file system that has its mount points already. */
async function prepared(dir: string): Promise<string> {
  const path = join(dir, "prepared");
  if (
    await readFile(join(path, "which")).then(
      () => true,
      () => false,
    )
  )
    return path;
  await makeRootfs(path);
  for (const directory of ["proc", "dev", "sys"]) await mkdir(join(path, directory));
  await writeFile(join(path, "which"), "prepared");
  return path;
}
