import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { arch, tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import type { oci } from "@berth/spec";
import { compileSeccomp, defaultSeccomp, SeccompError } from "../src/index.ts";
import { findFilter } from "../src/seccomp/find.ts";
import { enosysPrologue } from "../src/seccomp/enosys.ts";
import { runFilter, type Call } from "./support/bpf.ts";

const X86_64 = 0xc000_003e;
const I386 = 0x4000_0003;
const X32 = 0x4000_0000;
const ALLOW = 0x7fff_0000;
const KILL_THREAD = 0;
const errno = (number: number) => 0x0005_0000 | number;
const [EPERM, ENOSYS] = [1, 38];
const NEWUSER = 0x1000_0000n;

/** Numbers of x86-64 (asm/unistd_64.h). */
const NR = {
  read: 0,
  socket: 41,
  clone: 56,
  ptrace: 101,
  personality: 135,
  mount: 165,
  reboot: 169,
  bpf: 321,
  clone3: 435,
  futex_waitv: 449,
  set_mempolicy_home_node: 450,
  mseal: 462,
} as const;

let cache: string;
before(async () => {
  cache = await mkdtemp(join(tmpdir(), "berth-seccomp-"));
});
after(() => rm(cache, { recursive: true, force: true }));

function onX86(t: TestContext): boolean {
  if (arch() !== "x64") t.skip("numbers are x86-64's");
  return arch() === "x64";
}

async function verdict(
  profile: oci.LinuxSeccomp,
): Promise<(nr: number, args?: readonly bigint[], arch?: number) => number> {
  const built = await compileSeccomp(profile, cache);
  assert.ok(built);
  return (nr, args = [], architecture = X86_64) =>
    runFilter(built.filter, { arch: architecture, nr, args } satisfies Call);
}

test("the default profile: what programs need is allowed, what containers must not do fails with EPERM", async (t) => {
  if (!onX86(t)) return;
  const answer = await verdict(defaultSeccomp(["CAP_CHOWN"]));
  assert.equal(answer(NR.read), ALLOW);
  for (const nr of [NR.mount, NR.reboot, NR.bpf]) assert.equal(answer(nr), errno(EPERM), String(nr));
  assert.equal(answer(NR.ptrace), ALLOW, "since Linux 4.8");
});

test("the default profile's argument rules", async (t) => {
  if (!onX86(t)) return;
  const answer = await verdict(defaultSeccomp(["CAP_CHOWN"]));
  assert.equal(answer(NR.clone, [0n]), ALLOW);
  assert.equal(answer(NR.clone, [NEWUSER]), errno(EPERM));
  assert.equal(answer(NR.clone3), errno(ENOSYS), "so that C libraries fall back to clone");
  for (const [family, expected] of [
    [1n, ALLOW],
    [2n, ALLOW],
    [37n, ALLOW],
    [38n, errno(EPERM)],
    [39n, ALLOW],
    [40n, errno(EPERM)],
    [41n, ALLOW],
  ] as const) {
    assert.equal(answer(NR.socket, [family]), expected, `socket family ${family}`);
  }
  for (const [value, expected] of [
    [0n, ALLOW],
    [8n, ALLOW],
    [0x20000n, ALLOW],
    [0x20008n, ALLOW],
    [0xffff_ffffn, ALLOW],
    [1n, errno(EPERM)],
  ] as const) {
    assert.equal(answer(NR.personality, [value]), expected, `personality ${value}`);
  }
});

test("capabilities open what belongs to them", async (t) => {
  if (!onX86(t)) return;
  const admin = await verdict(defaultSeccomp(["CAP_SYS_ADMIN"]));
  assert.equal(admin(NR.mount), ALLOW);
  assert.equal(admin(NR.clone, [NEWUSER]), ALLOW);
  assert.equal(admin(NR.clone3), ALLOW);
  assert.equal(admin(NR.reboot), errno(EPERM));
  assert.equal((await verdict(defaultSeccomp(["CAP_SYS_BOOT"])))(NR.reboot), ALLOW);
});

test("before Linux 4.8 tracing is not allowed", () => {
  const names = (kernel: string) => defaultSeccomp([], "x64", kernel).syscalls?.flatMap((rule) => rule.names) ?? [];
  assert.ok(names("4.8.0").includes("ptrace"));
  assert.ok(!names("4.7.9").includes("ptrace"));
});

test("the default profile has the engines' size on every architecture", () => {
  for (const [machine, own] of [
    ["x64", 2],
    ["arm64", 6],
    ["riscv64", 2],
  ] as const) {
    const rules = defaultSeccomp([], machine, "6.1.0").syscalls ?? [];
    const allowed = rules
      .filter((rule) => rule.action === "SCMP_ACT_ALLOW" && !rule.args?.length)
      .flatMap((rule) => rule.names);
    assert.equal(new Set(allowed).size, allowed.length, "no name twice");
    assert.equal(allowed.length, 363 + 3 + own, machine);
  }
});

test("calls newer than the profile are ENOSYS on every ABI, and nothing else changes", async (t) => {
  if (!onX86(t)) return;
  const profile = defaultSeccomp(["CAP_CHOWN"]);
  const built = await compileSeccomp(profile, cache);
  const answer = await verdict(profile);
  assert.match(built?.warnings.join() ?? "", /does not know .*skipped|^$/);
  // The newest call that libseccomp knows of this profile's names decides.
  const newest =
    [NR.futex_waitv, NR.set_mempolicy_home_node, NR.mseal].filter((nr) => answer(nr) === ALLOW).at(-1) ?? 0;
  assert.ok(newest >= NR.futex_waitv);
  assert.equal(answer(1000), errno(ENOSYS));
  assert.equal(answer(1000, [], I386), errno(ENOSYS));
  assert.equal(answer(X32 + 1000), errno(ENOSYS));
  assert.equal(answer(NR.mount, [], X86_64), errno(EPERM), "known and not allowed stays EPERM");
  assert.equal(answer(3, [], I386), ALLOW, "read on i386");
  assert.equal(answer(X32 + 0), ALLOW, "read on x32");
  assert.equal(answer(0, [], 0xc000_00b7), KILL_THREAD, "an architecture that is not listed");
});

test("a profile that only forbids cannot be walked around by another architecture's calls", async (t) => {
  if (!onX86(t)) return;
  const answer = await verdict({
    defaultAction: "SCMP_ACT_ALLOW",
    syscalls: [{ names: ["mount"], action: "SCMP_ACT_ERRNO" }],
  });
  assert.equal(answer(NR.read), ALLOW);
  assert.equal(answer(21, [], I386), KILL_THREAD, "mount on i386, which the profile does not list");
  assert.equal(answer(X32 + NR.mount), KILL_THREAD, "mount on x32");
});

test("no ENOSYS where the default lets calls through", async (t) => {
  if (!onX86(t)) return;
  const answer = await verdict({
    defaultAction: "SCMP_ACT_ALLOW",
    syscalls: [{ names: ["mount"], action: "SCMP_ACT_ERRNO", errnoRet: 5 }],
  });
  assert.equal(answer(5000), ALLOW);
  assert.equal(answer(NR.mount), errno(5));
});

test("the prologue leaves what it does not decide to the filter behind it", () => {
  const rest = Buffer.alloc(8);
  rest.writeUInt16LE(0x06, 0);
  rest.writeUInt32LE(ALLOW, 4);
  const filter = Buffer.concat([
    enosysPrologue([
      { auditArch: X86_64, native: 10, x32: undefined },
      { auditArch: I386, native: 20, x32: undefined },
      { auditArch: 7, native: undefined, x32: undefined },
    ]),
    rest,
  ]);
  const run = (arch_: number, nr: number) => runFilter(filter, { arch: arch_, nr });
  assert.deepEqual(
    [run(X86_64, 10), run(X86_64, 11), run(X86_64, X32), run(X86_64, 0xffff_ffff)],
    [ALLOW, errno(ENOSYS), ALLOW, ALLOW],
  );
  assert.deepEqual(
    [run(I386, 20), run(I386, 21), run(7, 99_999), run(8, 99_999)],
    [ALLOW, errno(ENOSYS), ALLOW, ALLOW],
  );
});

test("two conditions on one argument are two rules", async (t) => {
  if (!onX86(t)) return;
  const args: oci.SeccompArgument[] = [
    { index: 0, value: 5, op: "SCMP_CMP_EQ" },
    { index: 0, value: 7, op: "SCMP_CMP_EQ" },
  ];
  const answer = await verdict({
    defaultAction: "SCMP_ACT_ERRNO",
    syscalls: [{ names: ["read"], action: "SCMP_ACT_ALLOW", args }],
  });
  assert.deepEqual(
    [5n, 6n, 7n].map((value) => answer(NR.read, [value])),
    [ALLOW, errno(EPERM), ALLOW],
  );
});

test("64-bit values are exact", async (t) => {
  if (!onX86(t)) return;
  const value = 0xffff_ffff_ffff_ffffn;
  const answer = await verdict({
    defaultAction: "SCMP_ACT_ERRNO",
    syscalls: [{ names: ["read"], action: "SCMP_ACT_ALLOW", args: [{ index: 1, value, op: "SCMP_CMP_EQ" }] }],
  });
  assert.equal(answer(NR.read, [0n, value]), ALLOW);
  assert.equal(answer(NR.read, [0n, value - 1n]), errno(EPERM));
});

test("flags: SPEC_ALLOW unless said otherwise", async () => {
  const flags = async (given?: string[]) =>
    (await compileSeccomp({ defaultAction: "SCMP_ACT_ALLOW", ...(given && { flags: given }) }, cache))?.flags;
  assert.equal(await flags(), 4n);
  assert.equal(await flags([]), 0n);
  assert.equal(await flags(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]), 2n);
});

test("what cannot be compiled is refused by field", async () => {
  const fails = async (profile: Partial<oci.LinuxSeccomp>, message: RegExp) =>
    assert.rejects(
      compileSeccomp({ defaultAction: "SCMP_ACT_ERRNO", ...profile }, cache),
      (error: Error) => error instanceof SeccompError && message.test(error.message),
    );
  await fails(
    { defaultAction: "SCMP_ACT_MAYBE" as oci.SeccompAction },
    /^linux\.seccomp\.defaultAction: "SCMP_ACT_MAYBE"/,
  );
  await fails({ defaultAction: "SCMP_ACT_NOTIFY" }, /defaultAction: SCMP_ACT_NOTIFY cannot be the default/);
  await fails(
    { syscalls: [{ names: ["read", "write"], action: "SCMP_ACT_NOTIFY" }] },
    /syscalls\[0\]: SCMP_ACT_NOTIFY cannot be used for the write syscall/,
  );
  await fails({ architectures: ["SCMP_ARCH_VAX"] }, /architectures\[0\]: "SCMP_ARCH_VAX"/);
  await fails({ flags: ["SECCOMP_FILTER_FLAG_NOPE"] }, /flags/);
  await fails(
    { syscalls: [{ names: ["read"], action: "SCMP_ACT_ALLOW", args: [{ index: 6, value: 0, op: "SCMP_CMP_EQ" }] }] },
    /syscalls\[0\]\.args\[0\]\.index/,
  );
});

test("no profile, no filter", async () => {
  assert.equal(await compileSeccomp(undefined), undefined);
});

test("kept on disk, and compiled again where the file was cut short", async () => {
  const own = await mkdtemp(join(cache, "own-"));
  const profile: oci.LinuxSeccomp = {
    defaultAction: "SCMP_ACT_ERRNO",
    syscalls: [{ names: ["read", "write"], action: "SCMP_ACT_ALLOW" }],
    flags: [],
  };
  const first = await compileSeccomp(profile, own);
  const [file = ""] = await readdir(own);
  assert.match(file, /^[0-9a-f]{64}\.bpf$/);
  const kept = await readFile(join(own, file));
  assert.deepEqual([...kept.subarray(kept.indexOf("\n") + 1)], [...(first?.filter ?? [])]);
  const hash = createHash("sha256").update(JSON.stringify(profile)).digest("hex");
  await writeFile(join(own, file), kept.subarray(0, kept.length - 8));
  // Not through compileSeccomp, which has it in memory.
  const again = findFilter({ profile, hash, cache: own, scratch: tmpdir() });
  assert.deepEqual([...again.filter], [...(first?.filter ?? [])]);
  assert.deepEqual(await readFile(join(own, file)), kept, "the whole file is back");
});

test("the main thread does not wait for the compiler", async () => {
  const [main, whole] = [process.threadCpuUsage(), process.cpuUsage()];
  await compileSeccomp({ ...defaultSeccomp(["CAP_CHOWN", "CAP_KILL"]), flags: ["SECCOMP_FILTER_FLAG_LOG"] });
  const sum = ({ user, system }: { user: number; system: number }): number => user + system;
  const [own, all] = [sum(process.threadCpuUsage(main)), sum(process.cpuUsage(whole))];
  // Processor time, which other processes take nothing of: nearly all of it is the worker's.
  assert.ok(own < all / 2, `${own} of ${all} µs were the main thread's`);
});
