/** Kata's list of limitations (docs/Limitations.md), and what keeps a machine from its node: a pod of one machine, under TCG. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from "node:fs";
import { after, before, describe, test, type TestContext } from "node:test";
import { cri } from "@berth/spec";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { checkout, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { createContainer, exited, OWN_PID, runPod, sh, startContainer } from "./support/pods.ts";
import { endProgram, notReady, vmProblem } from "./support/vm.ts";

const RUNTIME = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.vm";

describe("what Kata's list of limitations names", { skip: vmProblem() ?? false, timeout: 900_000 }, () => {
  let daemon: TestDaemon;
  let empty: Inventory;
  let pod: Awaited<ReturnType<typeof runPod>>;
  before(async () => {
    daemon = await TestDaemon.start();
    await daemon.kill("SIGTERM");
    writeFileSync(
      `${daemon.dir}/kata.toml`,
      "[hypervisor.qemu]\ndefault_memory = 256\ndefault_maxmemory = 512\n[factory]\nvm_cache_number = 0\n",
    );
    writeFileSync(
      daemon.configFile,
      `version = 3\n[${RUNTIME}]\nruntime_type = "io.containerd.berth-vm.v1"\nprivileged_without_host_devices = false\n[${RUNTIME}.options]\nConfigPath = "${daemon.dir}/kata.toml"\n`,
    );
    await makeGuestImage(`${daemon.root}/vm/image`);
    await daemon.startAgain();
    empty = await inventory(daemon);
    pod = await runPod(daemon, { linux: { securityContext: { ...OWN_PID, privileged: true } } }, "vm");
  });
  after(async () => {
    await daemon?.[Symbol.asyncDispose]();
  });

  /** Unmounted when the test has ended. */
  function mounted(t: TestContext, target: string, ...argv: readonly string[]): void {
    mkdirSync(target, { recursive: true });
    execFileSync("mount", [...argv, target]);
    t.after(() => execFileSync("umount", [target]));
  }

  test("VolumeMount.subPath: a directory and a file, as the kubelet mounts them for it", async (t) => {
    const volume = `${daemon.dir}/volume`;
    mkdirSync(`${volume}/below`, { recursive: true });
    writeFileSync(`${volume}/file`, "of the volume\n");
    const places = `${daemon.dir}/pods/uid/volume-subpaths/volume/main`;
    mounted(t, `${places}/0`, "--bind", `${volume}/below`);
    writeFileSync(`${places}/1`, "");
    execFileSync("mount", ["--bind", `${volume}/file`, `${places}/1`]);
    t.after(() => execFileSync("umount", [`${places}/1`]));
    const id = await startContainer(daemon, pod, "cat /file; echo made >/below/made; ls /below/..", {
      mounts: [
        { containerPath: "/below", hostPath: `${places}/0` },
        { containerPath: "/file", hostPath: `${places}/1` },
      ],
    });
    const { logPath, exitCode } = await exited(daemon, id);
    assert.equal(exitCode, 0);
    assert.match(readFileSync(logPath, "utf8"), /of the volume\n/);
    assert.equal(readFileSync(`${volume}/below/made`, "utf8"), "made\n");
    await daemon.client.runtime.removeContainer({ containerId: id });
  });

  test("a read-only volume, and what is mounted in it: read-only as well only where that is asked for", async (t) => {
    const volume = `${daemon.dir}/holder`;
    mounted(t, `${volume}/tmpfs`, "-t", "tmpfs", "tmpfs");
    const id = await startContainer(daemon, pod, "sleep 1000", {
      mounts: [
        { containerPath: "/own", hostPath: volume, readonly: true },
        { containerPath: "/all", hostPath: volume, readonly: true, recursiveReadOnly: true },
      ],
    });
    const wrote = async (file: string): Promise<string> =>
      (await sh(daemon, id, `touch ${file} 2>&1 || true`)).replace(/^.*: /, "");
    assert.equal(await wrote("/own/file"), "Read-only file system\n");
    assert.equal(await wrote("/all/file"), "Read-only file system\n");
    assert.equal(await wrote("/all/tmpfs/file"), "Read-only file system\n");
    assert.equal(await wrote("/own/tmpfs/file"), "");
    assert.ok(existsSync(`${volume}/tmpfs/file`));
    const { runtimeHandlers } = await daemon.client.runtime.status({});
    assert.equal(runtimeHandlers.find(({ name }) => name === "vm")?.features?.recursiveReadOnlyMounts, true);
    await daemon.client.runtime.removeContainer({ containerId: id });
  });

  test("events: of its containers, OOM among them", async () => {
    const abort = new AbortController();
    const seen: string[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    const followed = (async () => {
      try {
        for await (const event of daemon.client.runtime.getContainerEvents({}, { signal: abort.signal })) {
          const reasons = event.containersStatuses.map(({ reason }) => reason);
          seen.push(`${event.containerEventType} ${reasons.join(" ")}`);
          if (event.containerEventType === cri.ContainerEventType.CONTAINER_DELETED_EVENT) resolve();
        }
      } catch (error) {
        if (!abort.signal.aborted) throw error;
      }
    })();
    const id = await startContainer(daemon, pod, "head -c 100m /dev/zero | tail", {
      linux: {
        securityContext: OWN_PID,
        resources: { memoryLimitInBytes: BigInt(16 << 20), memorySwapLimitInBytes: BigInt(16 << 20) },
      },
    });
    assert.equal((await exited(daemon, id)).reason, "OOMKilled");
    await daemon.client.runtime.removeContainer({ containerId: id });
    await promise;
    abort.abort();
    await followed;
    const { CONTAINER_STARTED_EVENT: started, CONTAINER_STOPPED_EVENT: stopped } = cri.ContainerEventType;
    const said = seen.join();
    assert.ok(
      seen.some((line) => line.startsWith(`${started} `)),
      said,
    );
    assert.ok(
      seen.some((line) => line.startsWith(`${stopped} `) && line.includes("OOMKilled")),
      said,
    );
  });

  test("a full volume, and one of limited size, are an error of the container's and of nobody else", async (t) => {
    const scratch = `${daemon.dir}/pods/uid/volumes/kubernetes.io~empty-dir/scratch`;
    // As the kubelet makes an emptyDir of medium Memory with a sizeLimit.
    mounted(t, scratch, "-t", "tmpfs", "-o", "size=1m", "tmpfs");
    const id = await startContainer(
      daemon,
      pod,
      "dd if=/dev/zero of=/scratch/file bs=64k count=32; echo status $?; echo goes on >/tmp/file && cat /tmp/file",
      { mounts: [{ containerPath: "/scratch", hostPath: scratch }] },
    );
    const { logPath } = await exited(daemon, id);
    const log = readFileSync(logPath, "utf8");
    for (const line of [/No space left on device\n/, /status 1\n/, /goes on\n/]) assert.match(log, line);
    await daemon.client.runtime.removeContainer({ containerId: id });
  });

  test("privileged is the machine's: its devices and kernel, not the node's", async () => {
    const id = await startContainer(daemon, pod, "sleep 1000", {
      linux: { securityContext: { ...OWN_PID, privileged: true } },
    });
    const devices = (await sh(daemon, id, "ls /dev")).split("\n");
    assert.ok(
      devices.some((name) => /^vport\d+p\d+$/.test(name)),
      devices.join(),
    );
    assert.ok(!devices.includes("kvm") && !devices.includes("loop-control"), devices.join());
    // The most that it can do to a kernel it does to its machine's.
    assert.match(await sh(daemon, id, "uname -r; cat /sys/devices/virtual/dmi/id/sys_vendor"), /-cloud-amd64\nQEMU\n/);
    await daemon.client.runtime.removeContainer({ containerId: id });
  });

  test("nothing of the node or of another pod is seen: processes, interfaces, files", async () => {
    const other = await runPod(daemon);
    const server = await startContainer(daemon, other, "mkdir /www; httpd -f -p 127.0.0.1:8099 -h /www");
    const id = await startContainer(daemon, pod, "sleep 1000", {
      linux: { securityContext: { namespaceOptions: { pid: cri.NamespaceMode.CONTAINER }, privileged: true } },
    });
    assert.deepEqual((await sh(daemon, id, "ls /sys/class/net")).trim().split("\n"), ["dummy0", "eth0", "lo"]);
    assert.match(await sh(daemon, id, "wget -q -O - http://127.0.0.1:8099/ 2>&1; true"), /refused/);
    assert.doesNotMatch(await sh(daemon, id, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), /berthd|node|qemu|httpd/);
    // Whatever a guest asks of virtiofsd, that has the share for its own root.
    const state = `${daemon.state}/vm/${pod.id.slice(0, 20)}`;
    const daemons = readdirSync("/proc").filter(
      (pid) =>
        /^\d+$/.test(pid) &&
        existsSync(`/proc/${pid}/cmdline`) &&
        readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`--socket-path=${state}/virtiofs.sock`),
    );
    const confined = daemons.filter((pid) => readlinkSync(`/proc/${pid}/ns/mnt`) !== readlinkSync("/proc/self/ns/mnt"));
    assert.ok(confined.length > 0);
    for (const pid of confined)
      assert.deepEqual(readdirSync(`/proc/${pid}/root`).sort(), readdirSync(`${state}/ro`).sort());
    await daemon.client.runtime.removeContainer({ containerId: id });
    await daemon.client.runtime.removeContainer({ containerId: server });
    await daemon.client.runtime.removePodSandbox({ podSandboxId: other.id });
  });

  test("a block device of the node is a disk of the machine, and goes with its container", async (t) => {
    const file = `${daemon.dir}/device`;
    writeFileSync(file, Buffer.concat([Buffer.from("of the node\n"), Buffer.alloc((1 << 20) - 12)]));
    const loop = execFileSync("losetup", ["--find", "--show", file], { encoding: "utf8" }).trim();
    t.after(() => execFileSync("losetup", ["--detach", loop]));
    const devices = [{ hostPath: loop, containerPath: "/dev/xvda", permissions: "rw" }];
    const id = await startContainer(daemon, pod, "sleep 1000", { devices });
    assert.equal(await sh(daemon, id, "head -n 1 /dev/xvda"), "of the node\n");
    await sh(daemon, id, "printf 'of the guest' | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null");
    await daemon.client.runtime.removeContainer({ containerId: id });
    assert.equal(readFileSync(file).subarray(0, 12).toString(), "of the guest");
    const only = await startContainer(daemon, pod, "echo x >/dev/xvda; echo status $?", {
      devices: [{ ...devices[0], permissions: "r" }],
    });
    assert.match(readFileSync((await exited(daemon, only)).logPath, "utf8"), /status 1\n/);
    await daemon.client.runtime.removeContainer({ containerId: only });
  });

  test("a direct-assigned volume is mounted by the machine, given to its group, measured, and grows", async (t) => {
    const device = `${daemon.dir}/volume.ext4`;
    writeFileSync(device, "");
    truncateSync(device, 16 << 20);
    execFileSync("mkfs.ext4", ["-q", "-F", device]);
    const path = `${daemon.dir}/pods/uid/volumes/kubernetes.io~csi/direct/mount`;
    mkdirSync(path, { recursive: true });
    const direct = (...argv: string[]): string =>
      execFileSync(
        `${checkout}/bin/berth-vm`,
        ["--state", daemon.state, "direct-volume", ...argv, "--volume-path", path],
        {
          encoding: "utf8",
          stdio: "pipe",
        },
      );
    t.after(() => direct("remove"));
    const info = (metadata: Record<string, string>): string =>
      JSON.stringify({ "volume-type": "block", device, fstype: "ext4", metadata, options: ["noatime", "commit=77"] });
    const mounts = [{ containerPath: "/volume", hostPath: path }];
    direct("add", "--mount-info", info({ fsGroup: "none" }));
    await assert.rejects(createContainer(daemon, pod, "true", { mounts }), /metadata\.fsGroup: "none" is no group/);
    direct("add", "--mount-info", info({ fsGroup: "1234", fsGroupChangePolicy: "OnRootMismatch" }));
    assert.throws(() => direct("stats"), /no sandbox found for/);

    const id = await startContainer(daemon, pod, "sleep 1000", { mounts });
    assert.match(await sh(daemon, id, "grep ' /volume ' /proc/mounts"), /\/dev\/vd[a-z] \/volume ext4 rw,.*commit=77/);
    assert.equal(await sh(daemon, id, "stat -c '%g %a' /volume /volume/lost+found"), "1234 2775\n1234 2770\n");
    await sh(daemon, id, "echo kept >/volume/file");
    const bytes = (): number => {
      const { usage, volume_condition: condition } = JSON.parse(direct("stats")) as {
        usage: { available: number; total: number; used: number; unit: number }[];
        volume_condition: unknown;
      };
      assert.deepEqual(condition, { message: "OK" });
      assert.deepEqual(
        usage.map(({ unit }) => unit),
        [1, 2],
      );
      for (const { available, used, total } of usage) assert.equal(available + used, total);
      return usage[0]?.total ?? 0;
    };
    const before = bytes();
    direct("resize", "--size", String(48 << 20));
    assert.ok(bytes() > 2 * before);
    assert.throws(
      () => direct("resize", "--size", String(16 << 20)),
      /has 50331648 bytes; it can grow, and not become smaller/,
    );
    await sh(daemon, id, "dd if=/dev/zero of=/volume/large bs=1M count=24 2>/dev/null && rm /volume/large");
    await daemon.client.runtime.removeContainer({ containerId: id });
    assert.throws(() => direct("stats"), /no sandbox found for/);
    assert.equal(execFileSync("debugfs", ["-R", "cat /file", device], { encoding: "utf8", stdio: "pipe" }), "kept\n");
    execFileSync("e2fsck", ["-f", "-n", device], { stdio: "pipe" });
    assert.deepEqual(readdirSync(path), []);
  });

  test("a volume of huge pages is of the machine's own memory", async (t) => {
    const pages = `${daemon.dir}/pods/uid/volumes/kubernetes.io~empty-dir/pages`;
    mounted(t, pages, "-t", "hugetlbfs", "-o", "pagesize=2M", "hugetlbfs");
    const mounts = [{ containerPath: "/pages", hostPath: pages }];
    await assert.rejects(
      createContainer(daemon, pod, "true", { mounts }),
      /mounts\[\d+\]: ".*\/pages" is of huge pages of 2048 KiB, and the container has no limit of such/,
    );
    const id = await startContainer(daemon, pod, "grep ' /pages ' /proc/mounts; grep HugePages_Total /proc/meminfo", {
      mounts,
      linux: {
        securityContext: OWN_PID,
        resources: { hugepageLimits: [{ pageSize: "2MB", limit: BigInt(4 << 20) }] },
      },
    });
    const log = readFileSync((await exited(daemon, id)).logPath, "utf8");
    assert.match(log, /\/pages hugetlbfs rw,.*pagesize=2M,size=4194304 /);
    assert.match(log, /HugePages_Total: +2\n/);
    await daemon.client.runtime.removeContainer({ containerId: id });
  });

  test("checkpoints, and devices that a guest has not, are refused by name", async () => {
    const id = await startContainer(daemon, pod, "sleep 1000");
    await assert.rejects(
      daemon.client.runtime.checkpointContainer({ containerId: id, location: `${daemon.dir}/checkpoint.tar` }),
      /a container in a virtual machine cannot be checkpointed/,
    );
    await daemon.client.runtime.removeContainer({ containerId: id });
    const foreign = "/dev/net/tun";
    await assert.rejects(
      createContainer(daemon, pod, "true", {
        devices: [{ hostPath: foreign, containerPath: foreign, permissions: "rw" }],
      }),
      /device \/dev\/net\/tun \(c 10:200\): the guest's kernel has no such device/,
    );
  });

  test("a virtiofsd that ends is the end of its machine, and nothing is left of it", async () => {
    const id = await startContainer(daemon, pod, "while :; do ls -R /bin >/dev/null; done");
    await endProgram(daemon, pod.id, "virtiofsd");
    assert.equal((await exited(daemon, id)).exitCode, 137);
    await notReady(daemon, pod.id);
    assert.match(daemon.log, /virtual machine is gone: virtiofsd ended with status \d+/);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, empty);
  });
});
