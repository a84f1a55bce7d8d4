/**
 * Runs the bundle as a kubelet's plugin of CDI devices, so that V8 compiles what a start takes, and Node keeps what it made in
 * .build/compile-cache.
 */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeKubelet } from "../src/testing/kubelet.ts";

const root = join(import.meta.dirname, "../../..");
const dir = mkdtempSync(join(tmpdir(), "berth-warm-up-"));
const kubelet = new FakeKubelet(dir);
try {
  mkdirSync(join(dir, "cdi"));
  const devices = [{ name: "one", containerEdits: { env: ["A=1"] } }];
  writeFileSync(join(dir, "cdi/one.json"), JSON.stringify({ cdiVersion: "0.5.0", kind: "warm.up/gpu", devices }));
  writeFileSync(join(dir, "resources.yaml"), "version: v1\nresources:\n- name: warm.up/gpu\n");
  await kubelet.start();
  const flags = ["--config-file", join(dir, "resources.yaml"), "--cdi-spec-dirs", join(dir, "cdi")];
  const plugin = spawn(join(root, "bin/berth-device-plugin"), [...flags, "--kubelet-socket", kubelet.socket], {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, NODE_COMPILE_CACHE: join(root, ".build/compile-cache") },
  });
  const ended = new Promise<number | null>((resolve) => plugin.once("exit", resolve));
  const registered = kubelet.until(() => (kubelet.resources.get("warm.up/gpu")?.lists.length ?? 0) > 0);
  // One that ends before has failed.
  await Promise.race([registered, ended]);
  plugin.kill("SIGTERM");
  process.exitCode = (await ended) ?? 1;
} finally {
  await kubelet.stop();
  rmSync(dir, { recursive: true, force: true });
}
