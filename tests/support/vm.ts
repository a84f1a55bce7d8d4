/** Whether virtual machines can be started here. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { readRecord } from "@berth/kernel";
import { cri } from "@berth/spec";
import { guestProblem } from "../guest/guest.ts";
import type { TestDaemon } from "./daemon.ts";

/** Why not; undefined: they can. */
export function vmProblem(): string | undefined {
  const problem = guestProblem();
  if (problem !== undefined) return problem;
  if (spawnSync("sh", ["-c", "command -v debugfs"]).status !== 0) return "no debugfs: install e2fsprogs";
  return undefined;
}

/** Kills a program of a pod's machine; of one that is two processes the one that does the work. */
export async function endProgram(
  { state }: Pick<TestDaemon, "state">,
  podSandboxId: string,
  name: "hypervisor" | "relay" | "virtiofsd" | "roots",
): Promise<void> {
  const record = await readRecord(`${state}/vm/${podSandboxId.slice(0, 20)}/${name}`);
  assert.ok(record);
  const children = readFileSync(`/proc/${record.pid}/task/${record.pid}/children`, "utf8");
  process.kill(Number(children.trim().split(" ")[0]) || record.pid, "SIGKILL");
}

export async function notReady({ client }: Pick<TestDaemon, "client">, podSandboxId: string): Promise<void> {
  for (const end = Date.now() + 60_000; Date.now() < end;) {
    const { status } = await client.runtime.podSandboxStatus({ podSandboxId });
    if (status?.state === cri.PodSandboxState.SANDBOX_NOTREADY) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`pod ${podSandboxId} is ready, a minute after its machine has ended`);
}
