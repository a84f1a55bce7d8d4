/** Some of Kubernetes' conformance suite in virtual machines, where critest (cri-tools) is installed; docs/critest-machines.md has all of it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { checkout, IMAGE, run, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { vmProblem } from "./support/vm.ts";

/** Those that a plain busybox is enough for, and tell most. */
const SPECS = [
  "runtime should support execSync \\[Conformance\\]",
  "runtime should support removing running container",
  "runtime should support listing stats for three created containers",
  "runtime should support starting container with volume when host path is a symlink",
  "runtime should support reopening container log",
  "runtime should support exec with tty=true and stdin=true",
  "runtime should support attach",
  "runtime should support ReadonlyPaths",
  "should support safe sysctls",
  "runtime should support preserving PodSandbox attributes",
];

const critest = process.env["BERTH_CRITEST"] ?? "critest";
const isThere = spawnSync("sh", ["-c", `command -v "${critest}"`]).status === 0;
const problem = vmProblem() ?? (isThere ? undefined : "no critest on the PATH (or in BERTH_CRITEST)");

test("specs of critest in virtual machines", { skip: problem ?? false, timeout: 900_000 }, async () => {
  await using daemon = await TestDaemon.start();
  await daemon.kill("SIGTERM");
  writeFileSync(
    daemon.configFile,
    `version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.vm]
runtime_type = "io.containerd.berth-vm.v1"
`,
  );
  await makeGuestImage(`${daemon.root}/vm/image`);
  await daemon.startAgain();
  const empty = await inventory(daemon);
  const images = `${daemon.dir}/images.yaml`;
  writeFileSync(images, `defaultTestContainerImage: ${IMAGE}\nwebServerTestImage: ${IMAGE}\n`);
  const results = `${daemon.dir}/results.json`;
  const socket = `unix://${daemon.socket}`;
  const own = ["--critest", critest, "--results", results, "--shard", String(SPECS.length)];
  const theirs = [`--runtime-endpoint=${socket}`, `--image-endpoint=${socket}`, "--runtime-handler=vm"];
  const focus = SPECS.map((spec) => `--ginkgo.focus=${spec}`);
  const script = `${checkout}/scripts/critest-shards.ts`;
  await run([process.execPath, script, ...own, "--", ...theirs, `--test-images-file=${images}`, ...focus]);
  const states = Object.values(JSON.parse(readFileSync(results, "utf8")) as Record<string, { state: string }>);
  assert.ok(states.length >= SPECS.length, `${states.length} specs were run`);
  assert.ok(states.every(({ state }) => state === "passed"));
  await assertNothingLeft(daemon, empty);
});
