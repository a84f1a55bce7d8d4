/** Root file systems as disks, and volumes of machines with which nothing is shared: pods through the CRI, under TCG. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { busyboxFiles, file, layeredArchive } from "../scripts/busybox-image.ts";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { checkout, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { createContainer, exited, runPod, sh, startContainer } from "./support/pods.ts";
import { vmProblem } from "./support/vm.ts";

const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const LAYERED = "localhost/berth-test/layered:latest";
/** The file that Kata 1.7 came with, as it is documented. */
const DOCUMENTED = `${checkout}/packages/vm/test/testdata/configuration-1.x.toml`;

describe("machines with disks", { skip: vmProblem() ?? false, timeout: 900_000 }, () => {
  let daemon: TestDaemon;
  let empty: Inventory;
  before(async () => {
    daemon = await TestDaemon.start();
    await daemon.kill("SIGTERM");
    const own = ["default_memory = 256", "default_maxmemory = 512", "disable_block_device_use = false"];
    writeFileSync(`${daemon.dir}/disks.toml`, `[hypervisor.qemu]\n${own.join("\n")}\n[factory]\nvm_cache_number = 0\n`);
    writeFileSync(`${daemon.dir}/documented.toml`, documented());
    const handler = (name: string): string => `[${RUNTIMES}.${name}]
runtime_type = "io.containerd.berth-vm.v1"
[${RUNTIMES}.${name}.options]
ConfigPath = "${daemon.dir}/${name}.toml"
`;
    writeFileSync(daemon.configFile, `version = 3\n${handler("disks")}${handler("documented")}`);
    await makeGuestImage(`${daemon.root}/vm/image`);
    await daemon.startAgain();
    const layers = [
      await busyboxFiles(),
      [file("etc/lower", Buffer.from("lower\n")), file("etc/gone", Buffer.from("gone\n"))],
      [file("etc/lower", Buffer.from("upper\n")), file("etc/.wh.gone", Buffer.alloc(0))],
    ];
    writeFileSync(`${daemon.dir}/layered.tar`, layeredArchive(LAYERED, layers, { Cmd: ["sh"] }));
    await daemon.load(`${daemon.dir}/layered.tar`);
    empty = await inventory(daemon);
  });
  after(async () => {
    await daemon?.[Symbol.asyncDispose]();
  });

  /** With nothing but its paths changed. */
  function documented(): string {
    const paths: Readonly<Record<string, string>> = {
      "/usr/bin/qemu-lite-system-x86_64": "/usr/bin/qemu-system-x86_64",
      "/usr/share/kata-containers/vmlinuz.container": `${daemon.root}/vm/image/vmlinuz`,
      "/usr/share/kata-containers/kata-containers.img": `${daemon.root}/vm/image/root.erofs`,
    };
    let text = readFileSync(DOCUMENTED, "utf8");
    for (const [from, to] of Object.entries(paths)) {
      assert.ok(text.includes(from), from);
      text = text.replaceAll(from, to);
    }
    return text;
  }

  test("layers are one disk, what is written another; both go with the container", async () => {
    const pod = await runPod(daemon, {}, "disks");
    const volume = `${daemon.dir}/volume`;
    mkdirSync(volume);
    const image = { image: LAYERED };
    const mounts = [{ containerPath: "/data", hostPath: volume }];
    const one = await startContainer(daemon, pod, "sleep 1000", { image, mounts });
    assert.match(await sh(daemon, one, "grep ' / ' /proc/mounts"), /^overlay \/ overlay rw,/m);
    assert.equal(
      await sh(daemon, one, "cat /etc/lower; ls /etc/gone 2>&1; true"),
      "upper\nls: /etc/gone: No such file or directory\n",
    );
    await sh(
      daemon,
      one,
      "echo written >/etc/lower; cp /bin/busybox /copy; cmp /bin/busybox /copy; echo there >/data/file",
    );
    assert.equal(readFileSync(`${volume}/file`, "utf8"), "there\n");
    // Another of the same image has the same disk below it.
    const two = await startContainer(daemon, pod, "sleep 1000", { image });
    assert.equal(await sh(daemon, two, "cat /etc/lower"), "upper\n");
    const disks = "grep -c '[sv]d[a-z]$' /proc/partitions";
    assert.equal(await sh(daemon, two, disks), "3\n");
    const { stats } = await daemon.client.runtime.containerStats({ containerId: one });
    assert.ok((stats?.writableLayer?.usedBytes?.value ?? 0n) > 1_000_000n);
    await daemon.client.runtime.removeContainer({ containerId: one });
    assert.equal(await sh(daemon, two, disks), "2\n");

    // Another daemon knows whose they are.
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    await daemon.client.runtime.removeContainer({ containerId: two });
    const three = await startContainer(daemon, pod, "sleep 1000");
    assert.equal(await sh(daemon, three, disks), "2\n");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });

  test("a pod by the documented configuration.toml: its image is an NVDIMM, its disks are SCSI's, its volumes are copies", async () => {
    const kubelet = `${daemon.dir}/pods/uid/volumes`;
    const config = `${kubelet}/kubernetes.io~configmap/settings`;
    const scratch = `${kubelet}/kubernetes.io~empty-dir/scratch`;
    const own = `${daemon.dir}/own`;
    for (const directory of [`${config}/..1`, scratch, own]) mkdirSync(directory, { recursive: true });
    writeFileSync(`${config}/..1/key`, "one\n");
    symlinkSync("..1", `${config}/..data`);
    symlinkSync("..data/key", `${config}/key`);
    writeFileSync(`${daemon.dir}/hosts`, "127.0.0.1 localhost\n");
    const pod = await runPod(daemon, {}, "documented");
    const mounts = [
      { containerPath: "/config", hostPath: config, readonly: true },
      { containerPath: "/scratch", hostPath: scratch },
      { containerPath: "/etc/hosts", hostPath: `${daemon.dir}/hosts` },
    ];
    const id = await startContainer(daemon, pod, "sleep 1000", { mounts, image: { image: LAYERED } });
    const kernel = await sh(daemon, id, "cat /proc/cmdline");
    assert.match(kernel, / root=\/dev\/pmem0p1 ro rootfstype=erofs rootflags=dax /);
    assert.match(await sh(daemon, id, "cat /proc/partitions"), / sd[ab]\n/);
    assert.match(await sh(daemon, id, "cat /etc/hosts /config/key /etc/lower"), /localhost\none\nupper\n$/);
    await sh(daemon, id, "echo kept >/scratch/file");
    const other = await startContainer(daemon, pod, "cat /scratch/file", { mounts });
    assert.equal((await exited(daemon, other)).exitCode, 0);

    // As the kubelet does it.
    mkdirSync(`${config}/..2`);
    writeFileSync(`${config}/..2/key`, "two\n");
    symlinkSync("..2", `${config}/..data_tmp`);
    renameSync(`${config}/..data_tmp`, `${config}/..data`);
    await eventually("the guest sees the new value", async () => (await sh(daemon, id, "cat /config/key")) === "two\n");
    assert.equal(await sh(daemon, id, "readlink /config/..data"), "..2\n");
    writeFileSync(`${daemon.dir}/hosts`, "127.0.0.1 localhost\n10.0.0.1 other\n");
    await eventually("the guest sees the new hosts", async () => /other/.test(await sh(daemon, id, "cat /etc/hosts")));

    await assert.rejects(
      createContainer(daemon, pod, "true", { mounts: [{ containerPath: "/own", hostPath: own }] }),
      /mounts\[\d+\]: ".*own" is a directory of the node that containers write to, and with shared_fs = "virtio-9p" the machine has no share/,
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });
});

async function eventually(what: string, isSo: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 60_000; !(await isSo()); await new Promise((resolve) => setTimeout(resolve, 20)))
    if (Date.now() > end) throw new Error(`not within a minute: ${what}`);
}
