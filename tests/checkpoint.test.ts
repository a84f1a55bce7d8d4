/** CheckpointContainer, and containers made of checkpoints. Needs root and a CRIU that works: a guest where the machine's does not (tests/guest). */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { status as codes } from "@grpc/grpc-js";
import { file, imageArchive } from "../scripts/busybox-image.ts";
import { checkout, IMAGE, run, TestDaemon } from "./support/daemon.ts";
import { createContainer, runPod, sh, startContainer, status } from "./support/pods.ts";

const CHECKPOINT_IMAGE = "localhost/berth-test/checkpoint:latest";

const check = spawnSync("criu", ["check"], { encoding: "utf8" });
const skip =
  check.status === 0
    ? false
    : `criu does not work here: ${check.error?.message ?? `${check.stdout}${check.stderr}`.trim()}`;

/** Its memory, a file of its own, one of the image's that is gone, and what it has said. */
const COUNTER = `rm /etc/passwd; rm -r /home; mkdir -p /home /made; echo kept >/made/file; ln /made/file /made/other
echo started; i=0; while :; do i=$((i+1)); echo $i >/made/count; echo $i; sleep 0.2; done`;

describe("checkpoint and restore", { skip }, () => {
  let daemon: TestDaemon;
  let pod: Awaited<ReturnType<typeof runPod>>;
  before(async () => {
    const handlers = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc";
    const config = `version = 3\n[${handlers}]\nruntime_type = "io.containerd.runc.v2"\n[${handlers}.options]\nBinaryName = "/usr/sbin/runc"\n`;
    daemon = await TestDaemon.start({ config });
    pod = await runPod(daemon);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  const count = async (id: string): Promise<number> =>
    Number(await sh(daemon, id, "cat /made/count 2>/dev/null || echo 0"));
  const checkpoint = async (containerId: string, location: string, timeout = 0n): Promise<void> => {
    await daemon.client.runtime.checkpointContainer({ containerId, location, timeout });
  };
  const restored = (location: string, more: object = {}) => ({ image: { image: location }, command: [], ...more });
  const nothingLeft = (): void => {
    const directory = `${daemon.root}/checkpoints`;
    const left = existsSync(directory) ? readdirSync(directory).filter((name) => name.includes("-")) : [];
    assert.deepEqual(left, []);
  };
  const counts = async (id: string, from: number): Promise<void> => {
    for (const deadline = Date.now() + 60_000; (await count(id)) <= from;)
      assert.ok(Date.now() < deadline, "it stands still");
  };

  for (const handler of ["", "runc"]) {
    test(`an archive in the kubelet's format; the container runs on, and another goes on from there (${handler || "in process"})`, async () => {
      const own = handler === "" ? pod : await runPod(daemon, {}, handler);
      const id = await startContainer(daemon, own, COUNTER);
      await counts(id, 3);
      const location = `${daemon.dir}/checkpoint-${handler}.tar`;
      await checkpoint(id, location);
      assert.equal(statSync(location).mode & 0o777, 0o600);
      nothingLeft();
      const at = await count(id);
      await counts(id, at + 1);
      const members = spawnSync("tar", ["-tf", location], { encoding: "utf8" }).stdout.split("\n");
      for (const name of [
        "config.dump",
        "spec.dump",
        "status.dump",
        "rootfs-diff.tar",
        "bind.mounts",
        "container.log",
        "dump.log",
        "stats-dump",
        "checkpoint/inventory.img",
        "checkpoint/descriptors.json",
      ])
        assert.ok(members.includes(`./${name}`), name);
      const of = (name: string): string =>
        spawnSync("tar", ["-xOf", location, `./${name}`], { encoding: "utf8" }).stdout;
      assert.equal((JSON.parse(of("config.dump")) as { id: string }).id, id);
      assert.equal(
        (JSON.parse(of("status.dump")) as { metadata: { name: string } }).metadata.name,
        (await status(daemon, id)).metadata?.name,
      );
      await daemon.client.runtime.removeContainer({ containerId: id });

      const next = handler === "" ? await runPod(daemon) : await runPod(daemon, {}, handler);
      const again = await createContainer(daemon, next, "", restored(location, { annotations: { mine: "yes" } }));
      await daemon.client.runtime.startContainer({ containerId: again });
      await counts(again, at + 1);
      assert.equal(
        await sh(daemon, again, "cat /made/other; ls /etc/passwd 2>&1; ls /home; stat -c %h /made/file"),
        "kept\nls: /etc/passwd: No such file or directory\n2\n",
      );
      const told = await status(daemon, again);
      assert.deepEqual(
        [told.annotations["restored"], told.annotations["mine"], told.annotations["checkpointImage"]],
        ["true", "yes", location],
      );
      assert.match(readFileSync(told.logPath, "utf8"), /stdout F started\n[^]*stdout F \d+\n/);
      await daemon.client.runtime.stopContainer({ containerId: again, timeout: 0n });
      await daemon.client.runtime.removeContainer({ containerId: again });
      assert.equal(existsSync(`${daemon.root}/checkpoints/${again}`), false);
    });
  }

  test("an image that holds a checkpoint", async () => {
    const id = await startContainer(daemon, pod, COUNTER);
    await counts(id, 3);
    const location = `${daemon.dir}/for-image.tar`;
    const endpoint = ["--runtime-endpoint", `unix://${daemon.socket}`, "--timeout", "120s"];
    await run([`${checkout}/bin/crictl`, ...endpoint, "checkpoint", "--export", location, id]);
    const at = await count(id);
    await daemon.load(checkpointImage(daemon.dir, location));
    const again = await createContainer(daemon, await runPod(daemon), "", restored(CHECKPOINT_IMAGE));
    await daemon.client.runtime.startContainer({ containerId: again });
    await counts(again, at);
    assert.equal((await status(daemon, again)).image?.image, IMAGE);
  });

  test("a terminal", async () => {
    const tty = { tty: true, stdin: true };
    const id = await startContainer(daemon, pod, COUNTER, tty);
    await counts(id, 3);
    const location = `${daemon.dir}/terminal.tar`;
    await checkpoint(id, location);
    const at = await count(id);
    const again = await createContainer(daemon, await runPod(daemon), "", restored(location, tty));
    await daemon.client.runtime.startContainer({ containerId: again });
    await counts(again, at);
    assert.match(await sh(daemon, again, "ls -l /proc/1/fd/1"), /\/dev\/pts\/0|\/dev\/console/);
  });

  test("a time-out that is too short leaves the container running, and nothing else", async () => {
    // Random bytes on a file system of the container's own, which CRIU packs.
    const id = await startContainer(daemon, pod, `head -c 60m /dev/urandom >/dev/large; ${COUNTER}`);
    await counts(id, 3);
    const location = `${daemon.dir}/never.tar`;
    await assert.rejects(checkpoint(id, location, 1n), { code: codes.DEADLINE_EXCEEDED });
    assert.equal(existsSync(location), false);
    nothingLeft();
    await counts(id, (await count(id)) + 1);
    await assert.rejects(checkpoint("nothing", location), { code: codes.NOT_FOUND });
    const created = await createContainer(daemon, pod, "true");
    await assert.rejects(checkpoint(created, location), { code: codes.FAILED_PRECONDITION });
  });

  test("what is no checkpoint is refused by name", async () => {
    const file = `${daemon.dir}/other.tar`;
    const kept = (): string[] =>
      readdirSync(`${daemon.root}/checkpoints`).sort((one, other) => one.localeCompare(other));
    const before = kept();
    mkdirSync(`${daemon.dir}/empty`, { recursive: true });
    spawnSync("tar", ["-C", `${daemon.dir}/empty`, "-cf", file, "."]);
    await assert.rejects(createContainer(daemon, pod, "", restored(file)), /is no checkpoint: it has no config\.dump/);
    writeFileSync(file, "nothing of the kind");
    await assert.rejects(createContainer(daemon, pod, "", restored(file)), /other\.tar/);
    assert.deepEqual(kept(), before);
  });
});

/** One layer with the archive's files, and the annotation that says what it is. */
function checkpointImage(directory: string, location: string): string {
  const unpacked = `${directory}/unpacked`;
  mkdirSync(unpacked);
  spawnSync("tar", ["-C", unpacked, "-xf", location]);
  const names = readdirSync(unpacked, { recursive: true, encoding: "utf8" });
  const files = names.filter((name) => statSync(`${unpacked}/${name}`).isFile());
  const path = `${directory}/checkpoint-image.tar`;
  const entries = files.map((name) => file(name, readFileSync(`${unpacked}/${name}`), 0o600));
  const annotations = { "org.criu.checkpoint.container.name": "counter" };
  writeFileSync(path, imageArchive(CHECKPOINT_IMAGE, entries, {}, {}, annotations));
  return path;
}
