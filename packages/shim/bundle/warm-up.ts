/**
 * Runs a shim's bundle as containerd does, so that V8 compiles what that takes, and keeps what it made; with a container, which for a
 * user who may make none ends early.
 *
 *   node packages/shim/bundle/warm-up.ts PROGRAM DIRECTORY [--container]
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packJson, parseBootstrap, TaskService } from "@berth/shim";
import { TtrpcServer } from "@berth/ttrpc";
import { forward } from "@berth/spec/shim";
import { COMPILED } from "./program.ts";

const [program = "", directory = "", ...more] = process.argv.slice(2);
const bosun = join(import.meta.dirname, "../../../.build/native/bosun");
const ID = "warm-up";
const NAMESPACE = "berth";
const CALL = { timeoutMs: 30_000 };
const scratch = mkdtempSync(join(tmpdir(), "berth-warm-up-"));
const address = join(scratch, "c.sock");
const events = new TtrpcServer().add(forward.Events, { forward: () => Promise.resolve({}) });
try {
  const bundle = makeBundle();
  await events.listen(`${address}.ttrpc`);
  const env = {
    ...process.env,
    BERTH_SHIM_STATE: join(scratch, "run"),
    BERTH_SHIM_KEEPS_CODE: join(directory, COMPILED),
    TTRPC_ADDRESS: `${address}.ttrpc`,
  };
  const flags = ["-namespace", NAMESPACE, "-address", address, "-publish-binary", "/bin/false", "-id", ID, "start"];
  const started = spawnSync(program, flags, { cwd: bundle, env, input: "" });
  if (started.status !== 0)
    throw new Error(`${program} ended with status ${started.status}: ${String(started.stderr)}`);
  const service = await TaskService.connect(parseBootstrap(started.stdout), NAMESPACE);
  if (more.includes("--container")) await live(service, bundle);
  await service.call("shutdown", { id: ID, now: true }, CALL);
  await service.closed;
} finally {
  await events.close();
  rmSync(scratch, { recursive: true, force: true });
}

/** What a container's life is; what its kind of user may not do is where it ends. */
async function live(service: TaskService, bundle: string): Promise<void> {
  const streams = { stdin: "", stdout: `file://${join(scratch, "out")}`, stderr: "" };
  try {
    await service.call("create", { id: ID, bundle, ...streams }, CALL);
    await service.call("start", { id: ID }, CALL);
    const args = { args: ["/bosun"], cwd: "/", user: { uid: 0, gid: 0 } };
    await service.call("exec", { id: ID, execId: "e", ...streams, spec: packJson("Process", args) }, CALL);
    await service.call("start", { id: ID, execId: "e" }, CALL);
    await service.call("wait", { id: ID, execId: "e" }, CALL);
    await service.call("stats", { id: ID }, CALL);
    await service.call("kill", { id: ID, signal: 9, all: true }, CALL);
    await service.call("wait", { id: ID }, CALL);
    await service.call("state", { id: ID }, CALL);
    await service.call("delete", { id: ID }, CALL);
  } catch (error) {
    process.stdout.write(`no further: ${(error as Error).message}\n`);
  }
}

/** Its program is bosun, which needs nothing but itself; `relay` waits for its socket. */
function makeBundle(): string {
  const path = join(scratch, "bundle");
  mkdirSync(join(path, "rootfs"), { recursive: true });
  cpSync(bosun, join(path, "rootfs/bosun"));
  const namespaces = ["pid", "mount", "ipc", "uts", "network"].map((type) => ({ type }));
  const spec = {
    ociVersion: "1.1.0",
    root: { path: "rootfs" },
    process: { user: { uid: 0, gid: 0 }, cwd: "/", args: ["/bosun", "pause"] },
    mounts: [{ destination: "/proc", type: "proc", source: "proc" }],
    linux: { namespaces, cgroupsPath: `/berth-warm-up-${process.pid}` },
  };
  writeFileSync(join(path, "config.json"), JSON.stringify(spec));
  return path;
}
