/** A handler with NvidiaRuntime: GPUs by NVIDIA_VISIBLE_DEVICES, by berthd itself, on a driver root and an NVML that are made up. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { makeDriverRoot } from "@berth/gpu/testing/driver";
import { checkout, TestDaemon } from "./support/daemon.ts";
import { createContainer, runPod, sh, startContainer } from "./support/pods.ts";

const GPUS = "driver 525.147.05\ngpu GPU-1 0 00000000:01:00.0 0 A100\ngpu GPU-2 1 00000000:02:00.0 0 A100\n";

describe("GPUs by a handler of berthd's", () => {
  let dir = "";
  let daemon: TestDaemon;
  const visible = (value: string) => ({ envs: [{ key: "NVIDIA_VISIBLE_DEVICES", value: Buffer.from(value) }] });
  const configure = (more = ""): void =>
    writeFileSync(
      join(dir, "nvidia.toml"),
      `[nvidia-container-cli]\nroot = "${dir}/driver"\n[nvidia-ctk]\npath = "${checkout}/.build/native/cdi-hook"\n${more}`,
    );
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "berth-gpus-"));
    makeDriverRoot(join(dir, "driver"));
    writeFileSync(join(dir, "nvml.txt"), GPUS);
    configure();
    const handler = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia";
    const options = `[${handler}.options]\nNvidiaRuntime = true\nNvidiaConfig = "${dir}/nvidia.toml"\n`;
    daemon = await TestDaemon.start({
      env: { FAKE_NVML: join(dir, "nvml.txt") },
      config: `version = 3\n[${handler}]\nruntime_type = "io.containerd.runc.v2"\n${options}`,
    });
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  test("a container of it has the GPU that it asks for, the driver's files and its links; one of another handler has not", async () => {
    const pod = await runPod(daemon, {}, "nvidia");
    const id = await startContainer(daemon, pod, "sleep 1000", visible("1"));
    const nodes = "ls /dev | grep ^nvidia | tr '\\n' ' '";
    assert.equal(await sh(daemon, id, nodes), "nvidia-modeset nvidia-uvm nvidia-uvm-tools nvidia1 nvidiactl ");
    assert.equal(await sh(daemon, id, "readlink /usr/lib/x86_64-linux-gnu/libcuda.so.1"), "libcuda.so.525.147.05\n");
    assert.equal(await sh(daemon, id, "echo $NVIDIA_VISIBLE_DEVICES"), "void\n");
    // The rules allow the node, and there is no driver behind it.
    await assert.rejects(sh(daemon, id, "cat /dev/nvidia1"), /No such device or address/);
    const none = await startContainer(daemon, pod, "sleep 1000", visible("void"));
    assert.equal(await sh(daemon, none, nodes), "");
    const other = await runPod(daemon);
    assert.equal(await sh(daemon, await startContainer(daemon, other, "sleep 1000", visible("all")), nodes), "");
    for (const { id: podSandboxId } of [pod, other]) await daemon.client.runtime.removePodSandbox({ podSandboxId });
  });

  test("what cannot be is refused with its reason, and the next container is made all the same", async () => {
    const pod = await runPod(daemon, {}, "nvidia");
    const make = (value: string) => createContainer(daemon, pod, "true", visible(value));
    await assert.rejects(make("7"), /runtime_handler "nvidia": --device-id 7: NVML knows no GPU/);
    configure('[nvidia-container-runtime]\nmode = "x"\n');
    await assert.rejects(make("0"), /nvidia-container-runtime.mode: invalid mode "x"/);
    configure();
    await make("0");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });
});
