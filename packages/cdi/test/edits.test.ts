import assert from "node:assert/strict";
import { test } from "node:test";
import type { oci } from "@berth/spec";
import { applyEdits } from "../src/edits.ts";
import type { HostDevice, HostDevices } from "../src/device-node.ts";
import type { ContainerEdits, DeviceNode } from "../src/types.ts";

const NULL: HostDevice = { type: "c", major: 1, minor: 3, fileMode: 0o666 };
const host: HostDevices = (path) => {
  const known: Readonly<Record<string, HostDevice>> = {
    "/dev/null": NULL,
    "/dev/loop0": { type: "b", major: 7, minor: 0, fileMode: 0o660 },
    "/dev/fifo": { type: "p", major: 0, minor: 0, fileMode: 0o644 },
  };
  const found = known[path];
  return found
    ? Promise.resolve(found)
    : Promise.reject(new Error(`ENOENT: no such file or directory, lstat '${path}'`));
};
const SPEC: oci.Spec = {
  ociVersion: "1.3.0",
  process: { user: { uid: 0, gid: 0 }, cwd: "/", env: ["PATH=/bin", "A=0"] },
};
const apply = (edits: ContainerEdits, spec: oci.Spec = SPEC): Promise<oci.Spec> => applyEdits(spec, [{ edits }], host);
const device = async (node: DeviceNode, spec?: oci.Spec) => {
  const { linux } = await apply({ deviceNodes: [node] }, spec);
  return { node: linux?.devices?.at(-1), rule: linux?.resources?.devices?.at(-1) };
};

test("env: in place by name, else at the end; the last of several is the one that counts", async () => {
  const { process } = await apply({ env: ["B=1", "A=2", "B=3"] });
  assert.deepEqual(process?.env, ["PATH=/bin", "A=2", "B=3"]);
  const twice = { ...SPEC, process: { ...SPEC.process, env: ["A=1", "A=2"] } } as oci.Spec;
  assert.deepEqual((await apply({ env: ["A=3"] }, twice)).process?.env, ["A=1", "A=3"]);
  assert.deepEqual((await apply({ env: ["A=1"] }, { ociVersion: "1.3.0" })).process?.env, ["A=1"]);
});

test("device nodes: what is left open is the host's", async () => {
  assert.deepEqual(await device({ path: "/dev/null" }), {
    node: { path: "/dev/null", ...NULL },
    rule: { allow: true, type: "c", major: 1, minor: 3, access: "rwm" },
  });
  assert.deepEqual(await device({ path: "/dev/x", hostPath: "/dev/loop0", permissions: "r" }), {
    node: { path: "/dev/x", type: "b", major: 7, minor: 0, fileMode: 0o660 },
    rule: { allow: true, type: "b", major: 7, minor: 0, access: "r" },
  });
  assert.deepEqual(await device({ path: "/dev/fifo" }), {
    node: { path: "/dev/fifo", type: "p", major: 0, minor: 0, fileMode: 0o644 },
    rule: undefined,
  });
  assert.deepEqual((await device({ path: "/dev/null", permissions: "none" })).rule?.access, "");
  assert.deepEqual((await device({ path: "/dev/null", major: 5, minor: 9 })).node?.minor, 9);
  assert.equal((await device({ path: "/dev/null", fileMode: 0o600 })).node?.fileMode, 0o600);
});

test("device nodes: one that says what it is needs no host's node, but takes its mode", async () => {
  const gone = { path: "/dev/gone", type: "c", major: 9, minor: 1 };
  assert.deepEqual((await device(gone)).node, gone);
  assert.deepEqual((await device({ path: "/dev/null", type: "c", major: 9 })).node, {
    path: "/dev/null",
    type: "c",
    major: 9,
    minor: 0,
    fileMode: 0o666,
  });
  assert.deepEqual((await device({ path: "/dev/gone", type: "p" })).node, {
    path: "/dev/gone",
    type: "p",
    major: 0,
    minor: 0,
  });
  await assert.rejects(
    device({ path: "/dev/gone" }),
    /deviceNodes "\/dev\/gone": failed to stat CDI host device "\/dev\/gone": ENOENT/,
  );
  await assert.rejects(device({ path: "/dev/gone", type: "c" }), /failed to stat/);
  await assert.rejects(device({ path: "/dev/null", type: "b" }), /host type mismatch \(b, c\)/);
});

test("device nodes belong to the container's user unless they say whose they are", async () => {
  const user = { ...SPEC, process: { ...SPEC.process, user: { uid: 7, gid: 8 } } } as oci.Spec;
  const owned = await device({ path: "/dev/null" }, user);
  assert.deepEqual([owned.node?.uid, owned.node?.gid], [7, 8]);
  const own = await device({ path: "/dev/null", uid: 0, gid: 5 }, user);
  assert.deepEqual([own.node?.uid, own.node?.gid], [0, 5]);
  assert.equal((await device({ path: "/dev/null" })).node?.uid, undefined);
});

test("device nodes: of one path there is one, the last", async () => {
  const spec = {
    ...SPEC,
    linux: {
      devices: [
        { path: "/dev/null", type: "c", major: 5 },
        { path: "/dev/b", type: "b" },
      ],
    },
  } as oci.Spec;
  const { linux } = await apply(
    { deviceNodes: [{ path: "/dev/null" }, { path: "/dev/null", hostPath: "/dev/loop0" }] },
    spec,
  );
  assert.deepEqual(
    linux?.devices?.map(({ path, type }) => [path, type]),
    [
      ["/dev/b", "b"],
      ["/dev/null", "b"],
    ],
  );
  assert.equal(linux?.resources?.devices?.length, 2);
});

test("mounts: of one destination there is one; all are in the order of their depth", async () => {
  const spec = {
    ...SPEC,
    mounts: [{ destination: "/a/b/c" }, { destination: "/proc", type: "proc" }, { destination: "/a" }],
  };
  const { mounts } = await apply(
    {
      mounts: [
        { hostPath: "/h", containerPath: "/x/y", options: ["ro"] },
        { hostPath: "/h", containerPath: "/a" },
      ],
    },
    spec,
  );
  assert.deepEqual(
    mounts?.map(({ destination, source }) => [destination, source]),
    [
      ["/proc", undefined],
      ["/a", "/h"],
      ["/x/y", "/h"],
      ["/a/b/c", undefined],
    ],
  );
});

test("mounts of a container in a user namespace are mapped as it is", async () => {
  const spec = { ...SPEC, linux: { namespaces: [{ type: "user" as const }] } };
  const mount = (options: string[], type?: string) => ({
    hostPath: "/h",
    containerPath: `/${options.join("")}${type}`,
    options,
    ...(type && { type }),
  });
  const { mounts } = await apply(
    {
      mounts: [
        mount(["bind"]),
        mount(["rbind"]),
        mount(["rbind", "idmap"]),
        mount(["ro"], "bind"),
        mount(["ro"], "tmpfs"),
      ],
    },
    spec,
  );
  assert.deepEqual(
    mounts?.map(({ options }) => options),
    [["bind", "idmap"], ["rbind", "ridmap"], ["rbind", "idmap"], ["ro", "idmap"], ["ro"]],
  );
});

test("hooks, interfaces, resctrl and groups", async () => {
  const spec = { ...SPEC, hooks: { prestart: [{ path: "/first" }] } };
  const next = await applyEdits(
    spec,
    [
      {
        edits: {
          hooks: [{ hookName: "prestart", path: "/h", args: ["h", "a"], env: ["A=1"], timeout: 5 }],
          intelRdt: { closID: "a" },
          additionalGids: [0, 5, 5],
        },
      },
      {
        edits: {
          hooks: [{ hookName: "createContainer", path: "/c" }],
          intelRdt: { closID: "b", schemata: ["L3:0=f"] },
          netDevices: [{ hostInterfaceName: "eth1", name: "net0" }],
          additionalGids: [6],
        },
      },
    ],
    host,
  );
  assert.deepEqual(next.hooks, {
    prestart: [{ path: "/first" }, { path: "/h", args: ["h", "a"], env: ["A=1"], timeout: 5 }],
    createContainer: [{ path: "/c" }],
  });
  assert.deepEqual(next.linux, {
    netDevices: { eth1: { name: "net0" } },
    intelRdt: { closID: "b", schemata: ["L3:0=f"] },
  });
  assert.deepEqual(next.process?.user.additionalGids, [5, 6]);
});

test("an error names whose edits failed, and the configuration given is as it was", async () => {
  const before = structuredClone(SPEC);
  const sources = [
    { edits: { env: ["A=9"], deviceNodes: [{ path: "/dev/null" }] }, file: "/etc/cdi/v.yaml" },
    { edits: { deviceNodes: [{ path: "/dev/gone" }] }, file: "/etc/cdi/v.yaml", device: "v/c=a" },
  ];
  await assert.rejects(applyEdits(SPEC, sources, host), {
    message: /^\/etc\/cdi\/v\.yaml: device "v\/c=a": deviceNodes "\/dev\/gone": failed to stat/,
  });
  assert.deepEqual(SPEC, before);
});
