/** How much a container may write: by annotation, where the file system has project quotas; refused with the reason elsewhere. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { status as codes } from "@grpc/grpc-js";
import { TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { createContainer, runPod, sh } from "./support/pods.ts";

const SIZE = "dev.berth.storage-opt.size";

describe("the size of a container's writable layer", () => {
  let daemon: TestDaemon;
  before(async () => {
    daemon = await TestDaemon.start();
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  test("what is no size is refused", async () => {
    const nothing = await inventory(daemon);
    const pod = await runPod(daemon);
    await assert.rejects(
      createContainer(daemon, pod, "sleep 100", { annotations: { [SIZE]: "much" } }),
      (error: Error & { code: codes }) =>
        error.code === codes.INVALID_ARGUMENT && /storage-opt\.size": "much" is not a size/.test(error.message),
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, nothing);
  });

  test("a container, or each of a pod's, ends at its size", async () => {
    const nothing = await inventory(daemon);
    const pod = await runPod(daemon, { annotations: { [SIZE]: "4Mi" } });
    const write = "dd if=/dev/zero of=/big bs=1M count=6 >/dev/null 2>&1 && echo wrote || echo full";
    const failed = await createContainer(daemon, pod, "sleep 100").catch((error: Error) => error);
    if (failed instanceof Error) assert.match(failed.message, /project_quota|cannot be limited: .*prjquota/);
    else {
      const own = await createContainer(daemon, pod, "sleep 100", { annotations: { [SIZE]: "16m" } });
      for (const containerId of [failed, own]) await daemon.client.runtime.startContainer({ containerId });
      assert.equal((await sh(daemon, failed, write)).trim(), "full");
      assert.equal((await sh(daemon, own, write)).trim(), "wrote");
    }
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, nothing);
  });
});
