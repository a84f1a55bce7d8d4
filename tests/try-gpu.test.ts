/** scripts/try-gpu, on a driver and an NVML that are made up: all that it does on a machine with a GPU but the GPU. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { makeDriverPrograms, makeDriverRoot } from "@berth/gpu/testing/driver";
import { checkout } from "./support/daemon.ts";

const GPUS = "driver 525.147.05\ngpu GPU-1 0 00000000:01:00.0 0 A100\ngpu GPU-2 1 00000000:02:00.0 0 A100\n";

describe("scripts/try-gpu", { skip: process.getuid?.() === 0 ? false : "needs root, for containers" }, () => {
  let dir = "";
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "berth-trying-"));
    makeDriverRoot(join(dir, "driver"));
    makeDriverPrograms(join(dir, "driver"));
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  const attempt = async (name: string, script: string, more: Readonly<Record<string, string>> = {}) => {
    const own = join(dir, name);
    mkdirSync(own);
    writeFileSync(join(dir, `${name}.txt`), script);
    const args = ["--driver-root", join(dir, "driver"), "--output", join(dir, `${name}.md`)];
    const env = { ...process.env, TMPDIR: own, FAKE_NVML: join(dir, `${name}.txt`), ...more };
    const child = spawn(`${checkout}/scripts/try-gpu`, args, { env, stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const status = await new Promise((resolve) => child.once("close", resolve));
    // Nothing is left of it: no file, mount or process.
    assert.deepEqual(readdirSync(own), [], said);
    assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(own));
    // What ends with a daemon ends a moment after it.
    for (const end = Date.now() + 30_000; processesOf(own).length > 0 && Date.now() < end;)
      await new Promise((resolve) => setTimeout(resolve, 50));
    assert.deepEqual(processesOf(own), []);
    return { status, said };
  };

  test("everything works: what was seen is there to be pasted", async () => {
    const { status, said } = await attempt("all", GPUS);
    assert.equal(status, 0, said);
    const text = readFileSync(join(dir, "all.md"), "utf8");
    assert.match(text, /^### 2 × A100 \(40960 MiB\), driver 525\.147\.05, CUDA 12\.0\n/);
    const rows = [...text.matchAll(/^\| (.*?) \| (.*?) \| \d+ \|$/gm)].map(([, what, result]) => [what, result]);
    const sums = /^1048576 sums made on device 0 in [\d.]+ ms, all right$/;
    const ways = ["by CDI", "by berth-nvidia-runtime", "by berthd's own handler", "as the plugin says"];
    for (const way of ways) {
      assert.deepEqual(
        rows.filter(([what]) => what === `nvidia-smi, ${way}`),
        [[`nvidia-smi, ${way}`, "driver 525.147.05"]],
      );
      assert.match(rows.find(([what]) => what === `CUDA program, ${way}`)?.[1] ?? "", sums);
    }
    assert.equal(rows.length, 2 * ways.length + 4);
    assert.ok(text.includes("| 2 healthy; Allocate of GPU-1 answers k8s.device-plugin.nvidia.com/gpu=GPU-1 |"));
    assert.ok(text.includes("\nnvidia.com/gpu=all\n\n$ berth run --rm --network host --device nvidia.com/gpu=all "));
    // By CDI both GPUs are there, by the plugin's answer the one that it names.
    assert.equal(text.split("\nGPU 1: made-up GPU 1\n").length - 1, ways.length - 1);
  });

  test("what does not work is told with its reason, and the rest is tried all the same", async () => {
    rmSync(join(dir, "driver/usr/lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.525.147.05"));
    const { status, said } = await attempt("part", GPUS);
    assert.equal(status, 1, said);
    assert.match(said, /^FAIL {2}CUDA program, by CDI: cuModuleLoadData: error 500/m);
    assert.match(said, /^ok {4}nvidia-smi, as the plugin says/m);
    assert.match(
      readFileSync(join(dir, "part.md"), "utf8"),
      /^\| CUDA program, by CDI \| \*\*failed:\*\* cuModuleLoadData/m,
    );
  });

  test("without a GPU, or without what it takes, it says so and ends with a status of its own", async () => {
    const none = await attempt("none", "driver 525.147.05\n");
    assert.deepEqual(
      [none.status, none.said],
      [3, "try-gpu: no NVIDIA GPU that could be tried: the driver, 525.147.05, knows none\n"],
    );
    const dead = await attempt("dead", "fail nvmlInit_v2 9\n");
    assert.equal(dead.status, 3);
    assert.match(dead.said, /no NVIDIA GPU that could be tried: nvmlInit_v2: .*\(9\)/);
    mkdirSync(join(dir, "bin"));
    writeFileSync(join(dir, "bin/cc"), "#!/bin/sh\necho no C today >&2\nexit 1\n", { mode: 0o755 });
    const bare = await attempt("bare", GPUS, { PATH: `${dir}/bin:${process.env["PATH"]}` });
    assert.deepEqual(
      [bare.status, /^try-gpu: cc, which builds the CUDA program .*: no C today$/m.test(bare.said)],
      [2, true],
    );
  });
});

const processesOf = (dir: string): string[] =>
  readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && commandOf(pid).includes(dir));

/** "" for one that is gone. */
function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
}
