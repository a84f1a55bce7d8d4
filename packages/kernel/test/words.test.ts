import assert from "node:assert/strict";
import { test } from "node:test";
import { CLONE, describePlan, NO_SLOT, orderWords, ORDERS, RLIM_INFINITY, type Order } from "../src/index.ts";
import { flagWords } from "../src/orders/words.ts";

test("numbers that have names get them", () => {
  const cases: readonly (readonly [Order, string])[] = [
    [
      {
        order: "clone",
        args: {
          flags: CLONE.NEWNS | CLONE.NEWPID,
          cgroupSlot: 4,
          uidMap: "0 1000 1\n1 2000 5\n",
          gidMap: "",
          denySetgroups: 0,
        },
      },
      "clone into new namespaces CLONE_NEWNS|CLONE_NEWPID into the cgroup of fd 4 with uids 0 1000 1; 1 2000 5",
    ],
    [{ order: "clone", args: { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 } }, "clone"],
    [
      { order: "mount", args: { source: "proc", target: "/proc", fstype: "proc", flags: 14n, data: "hidepid=2" } },
      "mount proc proc at /proc (hidepid=2) MS_NOSUID|MS_NODEV|MS_NOEXEC",
    ],
    [
      { order: "mount", args: { source: "", target: "/", fstype: "", flags: 0x84000n, data: "" } },
      "mount at / MS_REC|MS_SLAVE",
    ],
    [
      {
        order: "fs_mount",
        args: {
          slot: 1,
          fstype: "tmpfs",
          source: "x",
          options: ["size=1m", "mode=755"],
          attrs: 3n,
          fdKeys: [],
          fdSlots: [],
        },
      },
      "make tmpfs mount (size=1m,mode=755) MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID",
    ],
    [
      { order: "rlimit", args: { resource: 7, soft: 1024n, hard: RLIM_INFINITY } },
      "set rlimit RLIMIT_NOFILE to 1024:unlimited",
    ],
    [
      { order: "bounding", args: { mask: (1n << 21n) | (1n << 63n) } },
      "limit the bounding set to CAP_SYS_ADMIN,CAP_63",
    ],
    [{ order: "bounding", args: { mask: 0n } }, "limit the bounding set to none"],
    [{ order: "user", args: { uid: 1, gid: 2, groups: [], keepGroups: 0, chownStdio: 0 } }, "become 1:2"],
    [
      { order: "user", args: { uid: 1, gid: 2, groups: [3, 4], keepGroups: 0, chownStdio: 0 } },
      "become 1:2 (groups 3,4)",
    ],
    [{ order: "write_file", args: { path: "/f", data: Buffer.from("a\n") } }, 'write "a\\n" to /f'],
    [
      { order: "exec", args: { argv: ["sh", "-c", "echo 'hi'"], env: [], keep: 0 } },
      String.raw`exec sh -c 'echo '\''hi'\'''`,
    ],
    [
      { order: "seccomp", args: { flags: 6n, filter: new Uint8Array(24) } },
      "load the seccomp filter (3 instructions, SECCOMP_FILTER_FLAG_LOG|SECCOMP_FILTER_FLAG_SPEC_ALLOW)",
    ],
    [
      { order: "mkdev", args: { root: 0, path: "/dev/null", mode: 0o020_666, major: 1, minor: 3, uid: 0, gid: 0 } },
      "make device /dev/null 1:3 mode 0666",
    ],
    [{ order: "umask", args: { mask: 0o22 } }, "set umask 0022"],
    [{ order: "setns", args: { slot: 2, type: CLONE.NEWNET } }, "join namespaces CLONE_NEWNET of fd 2"],
    [{ order: "unmount", args: { path: "/m", flags: 2n } }, "unmount /m"],
  ];
  for (const [order, words] of cases) assert.equal(orderWords(order), words);
});

test("flags without a name are not lost", () => {
  assert.equal(flagWords(0x8000_0001n, [[1n, "ONE"]]), "ONE|0x80000000");
  assert.equal(flagWords(0n, [[1n, "ONE"]]), "0");
});

test("long values are cut", () => {
  const words = orderWords({ order: "write_file", args: { path: "/f", data: Buffer.alloc(10_000, "x") } });
  assert.ok(words.length < 300 && words.includes("…"));
});

test("the table's words name only its own fields", () => {
  for (const [name, spec] of Object.entries(ORDERS)) {
    for (const [, field] of spec.words.matchAll(/\{(\w+)\}/g))
      assert.ok(field !== undefined && field in spec.fields, `${name}: {${field}}`);
  }
});

test("codes and message types are unique, and no field is called like another's number", () => {
  const codes = Object.values(ORDERS).map(({ code }) => code);
  assert.equal(new Set(codes).size, codes.length);
});

test("what lies behind clone is the container's", () => {
  const at = (order: Order) => order;
  const lines = describePlan({
    orders: [
      at({ order: "setsid", args: {} }),
      at({ order: "clone", args: { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 } }),
      at({ order: "setsid", args: {}, because: "process" }),
    ],
  });
  assert.deepEqual(
    lines.map(({ where, because }) => [where, because]),
    [
      ["stage", ""],
      ["stage", ""],
      ["container", "process"],
    ],
  );
});
