/**
 * Runs what berth-runc is started for, so that V8 compiles it, and keeps what it made. There is no bosun: where one is asked, nothing
 * is answered, which is the end of each line.
 *
 *   node packages/runtime/bundle/warm-up.ts DIRECTORY
 */
import { mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StateDirectory, type ContainerRecord } from "../src/state/record.ts";
import { processStart } from "../src/state/status.ts";
import { COMPILED, loadBundle } from "./load.ts";

const [directory = ""] = process.argv.slice(2);
const { script, run } = loadBundle(directory, createRequire(join(directory, "main.cjs")));
const scratch = mkdtempSync(join(tmpdir(), "berth-runc-"));
try {
  process.env.BERTH_RUNC_CHANNEL = String(openSync("/dev/null", "r+"));
  mkdirSync(join(scratch, "rootfs"));
  await run(["spec", "--bundle", scratch]);
  const root = join(scratch, "state");
  const states = new StateDirectory(root);
  states.make("one");
  states.write(record());
  const global = ["--root", root, "--log", "/dev/null"];
  await run([...global, "create", "--plan", "--json", "--bundle", scratch, "two"]);
  for (const verb of ["create", "run"]) await run([...global, verb, "--bundle", scratch, "two"]);
  await run([...global, "exec", "one", "true"]);
  writeFileSync(join(directory, COMPILED), script.createCachedData());
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

/** Of a container that this process is. */
function record(): ContainerRecord {
  return {
    id: "one",
    init_process_pid: process.pid,
    init_process_start: processStart(process.pid) ?? 0,
    created: new Date().toISOString(),
    config: { rootfs: scratch, version: "1.3.0", labels: [], namespaces: [], cgroups: { path: "/", systemd: false } },
    rootless: false,
    cgroup_paths: {},
    namespace_paths: {},
    external_descriptors: [],
    intel_rdt_path: "",
    berth: {
      bundle: scratch,
      cgroup: "/berth-runc",
      spec: { ociVersion: "1.3.0", process: { user: { uid: 0, gid: 0 }, cwd: "/", args: ["true"] } },
      noNewKeyring: false,
    },
  };
}
