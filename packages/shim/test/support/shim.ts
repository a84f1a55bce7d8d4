/** A shim of a test's own, with one container's bundle, asked by the Task API. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { parseBootstrap, TaskService } from "../../src/index.ts";

const PROGRAM = new URL("../../../../bin/containerd-shim-berth-v2", import.meta.url).pathname;
const BUSYBOX = "/bin/busybox";
const LIMIT_MS = 60_000;

/** Why a shim cannot make containers here; false: it can. */
export const whyNoShim: string | false =
  process.getuid?.() !== 0 ? "needs root" : existsSync(BUSYBOX) ? false : "needs a static /bin/busybox";

/** As containerd asks it for a container whose shim has died. */
export function deleteLeft({ id, directory, bundle }: Omit<Shim, "service">): void {
  const flags = ["-namespace", "test", "-address", join(directory, "c.sock"), "-id", id, "-bundle", bundle, "delete"];
  const { status, stderr } = spawnSync(PROGRAM, flags, { env: environment(directory) });
  assert.equal(status, 0, String(stderr));
}

const environment = (directory: string): NodeJS.ProcessEnv => ({
  ...process.env,
  BERTH_SHIM_STATE: join(directory, "run"),
  TTRPC_ADDRESS: "",
});

export interface Shim {
  readonly id: string;
  readonly directory: string;
  readonly bundle: string;
  readonly service: TaskService;
}

/** Ends with the test. `script`: of the container's shell. */
export async function startShim(
  t: TestContext,
  { id, script, cgroupsPath }: { readonly id: string; readonly script: string; readonly cgroupsPath: string },
): Promise<Shim> {
  const directory = mkdtempSync(join(tmpdir(), "berth-shim-"));
  const bundle = makeBundle(directory, script, cgroupsPath);
  const flags = ["-namespace", "test", "-address", join(directory, "c.sock"), "-id", id, "start"];
  const { status, stdout, stderr } = spawnSync(PROGRAM, flags, { cwd: bundle, env: environment(directory), input: "" });
  if (status !== 0) rmSync(directory, { recursive: true });
  assert.equal(status, 0, String(stderr));
  const service = await TaskService.connect(parseBootstrap(stdout), "test");
  t.after(async () => {
    await service.call("kill", { id, signal: 9, all: true }).catch(() => undefined);
    await service.call("delete", { id }).catch(() => undefined);
    await service.call("shutdown", { id, now: true }).catch(() => undefined);
    await service.closed;
    rmSync(directory, { recursive: true });
  });
  return { id, directory, bundle, service };
}

function makeBundle(directory: string, script: string, cgroupsPath: string): string {
  const bundle = join(directory, "bundle");
  const bin = join(bundle, "rootfs/bin");
  mkdirSync(bin, { recursive: true });
  for (const name of ["proc", "dev"]) mkdirSync(join(bundle, "rootfs", name));
  cpSync(BUSYBOX, join(bin, "busybox"));
  for (const name of ["sh", "sleep"]) symlinkSync("busybox", join(bin, name));
  const spec = {
    ociVersion: "1.1.0",
    process: { user: { uid: 0, gid: 0 }, args: ["sh", "-c", script], env: ["PATH=/bin"], cwd: "/" },
    root: { path: "rootfs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
    ],
    linux: { namespaces: ["pid", "mount", "ipc", "uts", "network"].map((type) => ({ type })), cgroupsPath },
  };
  writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
  return bundle;
}

export async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = Date.now() + LIMIT_MS; !holds();) {
    assert.ok(Date.now() < end, `timed out waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
