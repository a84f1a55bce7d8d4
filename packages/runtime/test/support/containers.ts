/** What the tests of real containers share: one machine a file, tests that are skipped where none can be made, runs of a script. */
import assert from "node:assert/strict";
import { chmod, mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import type { oci } from "@berth/spec";
import { planExec, type ExecContext } from "../../src/index.ts";
import { Machine, makeRootfs, shellSpec, whyNot, type Running } from "./machine.ts";

const why = await whyNot();
let started: Machine | undefined;

/** To be called once in a test file. */
export function useMachine(): void {
  before(async () => {
    if (why === undefined) started = await Machine.start();
  });
  after(async () => {
    await started?.[Symbol.asyncDispose]();
  });
}

export function machine(): Machine {
  assert.ok(started, "useMachine was not called");
  return started;
}

/** A test that makes containers. */
export function container(name: string, body: (t: TestContext) => Promise<void>): void {
  test(name, why === undefined ? {} : { skip: why }, body);
}

/** The output of a script that must succeed, line by line. */
export async function lines(
  script: string,
  change?: (spec: oci.Spec) => oci.Spec,
  overrides?: Parameters<Machine["run"]>[2],
): Promise<string[]> {
  const { stdout, stderr, state } = await machine().run(script, change, overrides);
  assert.equal(state.code, 0, `exit ${state.code}: ${stderr}`);
  return stdout.trimEnd().split("\n");
}

export function withMount(spec: oci.Spec, ...mounts: oci.Mount[]): oci.Spec {
  return { ...spec, mounts: [...(spec.mounts ?? []), ...mounts] };
}

export function allCapabilities(): oci.LinuxCapabilities {
  const all = [
    "CAP_SYS_ADMIN",
    "CAP_DAC_OVERRIDE",
    "CAP_CHOWN",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_MKNOD",
    "CAP_SYS_CHROOT",
  ];
  return { bounding: all, effective: all, permitted: all };
}

/** Runs a script in a running container. */
export async function execIn(
  running: Running,
  script: string,
  change: Partial<oci.Process> = {},
  seccomp?: ExecContext["seccomp"],
) {
  const spec = shellSpec(script);
  const process = { ...(spec.process as oci.Process), ...change };
  const { plan } = planExec({ pid: running.pid, spec, cgroup: running.context.cgroup }, process, {
    host: machine().host,
    seccomp,
    terminal: false,
  });
  const result = await running.link.execSync({ plan }, { timeoutMs: 10_000 });
  return {
    code: result.code,
    stdout: Buffer.from(result.stdout).toString(),
    stderr: Buffer.from(result.stderr).toString(),
  };
}

/** A directory that others than root may enter too. */
export async function scratch(name: string): Promise<string> {
  const path = await mkdtemp(join(machine().directory, `${name}-`));
  await chmod(path, 0o755);
  return path;
}
/** A root file system of this test's own. */
export async function ownRootfs(): Promise<{ readonly kind: "path"; readonly path: string }> {
  const path = await scratch("rootfs");
  await makeRootfs(path);
  return { kind: "path", path };
}
