/** What a container sees: its isolation, its limits, its files, as the CRI asked for them. Needs root. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { TestDaemon } from "./support/daemon.ts";
import { OWN_PID, createContainer, exited, runPod, sh, startContainer, status } from "./support/pods.ts";

const SLEEP = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
const security = (more: object, resources: object = {}): object => ({
  linux: { securityContext: { ...OWN_PID, ...more }, resources },
});

describe("inside a container", () => {
  let daemon: TestDaemon;
  let pod: Awaited<ReturnType<typeof runPod>>;
  before(async () => {
    daemon = await TestDaemon.start();
    pod = await runPod(daemon, {
      dnsConfig: { servers: ["10.10.10.10"], searches: ["svc.local"], options: ["ndots:5"] },
      linux: { securityContext: OWN_PID, sysctls: { "net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1" } },
    });
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });
  const start = (more: object = {}): Promise<string> => startContainer(daemon, pod, SLEEP, more);
  const field = async (id: string, name: string): Promise<string> =>
    new RegExp(`^${name}:\\s*(.*)$`, "m").exec(await sh(daemon, id, "cat /proc/1/status"))?.[1] ?? "";

  test("the pod's files, name, sysctls and shared memory", async () => {
    const [a, b] = [await start(), await start()];
    assert.equal(
      await sh(daemon, a, "cat /etc/resolv.conf"),
      "search svc.local\nnameserver 10.10.10.10\noptions ndots:5\n",
    );
    assert.equal((await sh(daemon, a, "cat /etc/hostname")).trim(), pod.config.hostname);
    assert.match(await sh(daemon, a, "cat /etc/hosts"), /localhost/);
    assert.deepEqual(
      (await sh(daemon, a, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced")).trim().split("\n"),
      ["1", "1"],
    );
    await sh(daemon, a, "echo shared > /dev/shm/x");
    assert.equal(await sh(daemon, b, "cat /dev/shm/x"), "shared\n");
    assert.equal((await sh(daemon, a, "df -k /dev/shm | tail -1 | awk '{print $2}'")).trim(), "65536");
  });

  test("devices, file systems and PIDs of its own", async () => {
    const id = await start();
    assert.match(await sh(daemon, id, "ps -o pid,args | head -3"), /^\s*1\s/m);
    for (const device of ["null", "zero", "full", "random", "urandom", "tty"])
      await sh(daemon, id, `[ -c /dev/${device} ]`);
    assert.equal(
      (await sh(daemon, id, "for l in ptmx fd stdin stdout stderr; do readlink /dev/$l; done")).trim().split("\n")
        .length,
      5,
    );
    const mounts = await sh(daemon, id, "cat /proc/mounts");
    for (const type of ["proc", "sysfs", "devpts", "mqueue"]) assert.match(mounts, new RegExp(` ${type} `), type);
    assert.match(mounts, /^\S+ \/sys sysfs ro,/m);
    assert.equal((await sh(daemon, id, "ls -l /proc/1/fd | tail -n +2 | wc -l")).trim(), "3");
  });

  test("capabilities: the default set, added, dropped, all and none", async () => {
    const effective = async (capabilities: object): Promise<bigint> =>
      BigInt(`0x${await field(await start(security({ capabilities })), "CapEff")}`);
    assert.equal(await effective({}), 0xa80425fbn);
    assert.equal(await effective({ addCapabilities: ["NET_ADMIN"] }), 0xa80425fbn | (1n << 12n));
    assert.equal(await effective({ dropCapabilities: ["ALL"] }), 0n);
    assert.equal(await effective({ dropCapabilities: ["ALL"], addCapabilities: ["NET_BIND_SERVICE"] }), 1n << 10n);
    const own = BigInt(`0x${/^CapBnd:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]}`);
    assert.equal(await effective({ addCapabilities: ["ALL"] }), own);
    assert.equal(await field(await start(), "CapInh"), "0".repeat(16), "inheritable stays empty (CVE-2022-29162)");
  });

  test("no_new_privs and seccomp", async () => {
    const id = await start(security({ noNewPrivs: true, seccomp: { profileType: 0 } }));
    assert.deepEqual([await field(id, "NoNewPrivs"), await field(id, "Seccomp")], ["1", "2"]);
    await assert.rejects(sh(daemon, id, "unshare -U true"), /Operation not permitted|can't|EPERM/i);
    const open = await start(security({ seccomp: { profileType: 1 } }));
    assert.deepEqual([await field(open, "NoNewPrivs"), await field(open, "Seccomp")], ["0", "0"]);
  });

  test("users and groups: by number, by name, from the image's files, strict and merged", async () => {
    const idOf = async (more: object): Promise<string> =>
      (await sh(daemon, await start(security(more)), "echo $(id -u) $(id -g) $(id -G)")).trim();
    assert.equal(await idOf({}), "0 0 0");
    assert.equal(await idOf({ runAsUser: { value: 1234n } }), "1234 0 0");
    assert.equal(
      await idOf({ runAsUser: { value: 1234n }, runAsGroup: { value: 4321n }, supplementalGroups: [55n, 66n] }),
      "1234 4321 4321 55 66",
    );
    assert.equal(await idOf({ runAsUsername: "nobody" }), "65534 65534 65534");
    const id = await start(
      security({ runAsUser: { value: 1234n }, supplementalGroups: [77n], supplementalGroupsPolicy: 1 }),
    );
    const { user } = await status(daemon, id);
    assert.deepEqual([user?.linux?.uid, user?.linux?.gid, user?.linux?.supplementalGroups], [1234n, 0n, [0n, 77n]]);
  });

  test("limits are where the kernel reads them", async () => {
    const id = await start(
      security(
        {},
        { memoryLimitInBytes: 64n << 20n, cpuShares: 512n, cpuQuota: 50_000n, cpuPeriod: 100_000n, oomScoreAdj: 500n },
      ),
    );
    const read = (path: string): Promise<string> => sh(daemon, id, `cat ${path}`).then((text) => text.trim());
    const v2 =
      (await sh(daemon, id, "[ -e /sys/fs/cgroup/cgroup.controllers ] && echo yes || echo no")).trim() === "yes";
    const files = v2
      ? { "memory.max": String(64 << 20), "cpu.max": "50000 100000" }
      : { "memory/memory.limit_in_bytes": String(64 << 20), "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.shares": "512" };
    for (const [file, value] of Object.entries(files)) assert.equal(await read(`/sys/fs/cgroup/${file}`), value, file);
    assert.equal(await read("/proc/1/oom_score_adj"), "500");
    assert.match(await sh(daemon, id, "cat /proc/1/limits"), /Max open files\s+\d+\s+\d+/);
    await daemon.client.runtime.updateContainerResources({
      containerId: id,
      linux: { memoryLimitInBytes: 128n << 20n },
    });
    assert.equal(await read(`/sys/fs/cgroup/${v2 ? "memory.max" : "memory/memory.limit_in_bytes"}`), String(128 << 20));
    const { stats } = await daemon.client.runtime.containerStats({ containerId: id });
    assert.ok(
      (stats?.memory?.workingSetBytes?.value ?? 0n) > 0n && (stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n,
    );
  });

  test("volumes: read-write, read-only, files, links followed", async () => {
    const dir = `${daemon.dir}/volume`;
    mkdirSync(`${dir}/sub`, { recursive: true });
    writeFileSync(`${dir}/file`, "from the host\n");
    const id = await start({
      mounts: [
        { hostPath: dir, containerPath: "/rw" },
        { hostPath: dir, containerPath: "/ro", readonly: true },
        { hostPath: `${dir}/file`, containerPath: "/etc/new/config", readonly: true },
      ],
    });
    await sh(daemon, id, "echo from inside > /rw/made");
    assert.equal(readFileSync(`${dir}/made`, "utf8"), "from inside\n");
    assert.equal(await sh(daemon, id, "cat /etc/new/config"), "from the host\n");
    await assert.rejects(sh(daemon, id, "touch /ro/x"), /Read-only file system/);
    await assert.rejects(sh(daemon, id, "echo x > /etc/new/config"), /Read-only file system/);
  });

  test("a read-only root file system, masked and read-only paths", async () => {
    const id = await start(
      security({
        readonlyRootfs: true,
        maskedPaths: ["/proc/kcore", "/proc/acpi", "/sys/firmware"],
        readonlyPaths: ["/proc/sys"],
      }),
    );
    await assert.rejects(sh(daemon, id, "touch /x"), /Read-only file system/);
    await assert.rejects(sh(daemon, id, "echo 1 > /proc/sys/kernel/shm_rmid_forced"), /Read-only file system/);
    assert.equal(
      (await sh(daemon, id, "head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l")).trim().replace(/\s+/, " "),
      "0 0",
    );
    await sh(daemon, id, "touch /dev/shm/writable");
  });

  test("privileged: every capability, the host's devices, a writable /sys", async () => {
    const plain = security({ privileged: true });
    await assert.rejects(start(plain), /privileged: the pod is not privileged/);
    const inPrivileged = await runPod(daemon, { linux: { securityContext: { ...OWN_PID, privileged: true } } });
    const id = await startContainer(daemon, inPrivileged, SLEEP, plain);
    assert.match(await sh(daemon, id, "cat /proc/mounts"), /^\S+ \/sys sysfs rw,/m);
    await sh(daemon, id, "[ -b /dev/vda ] || [ -c /dev/kmsg ] || [ -c /dev/loop-control ]");
    assert.equal(await field(id, "Seccomp"), "0");
  });

  test("environment, arguments, working directory: the image's completed by the pod's", async () => {
    const id = await createContainer(daemon, pod, "", {
      command: ["/bin/sh", "-c"],
      args: ["echo $GREETING $PWD $HOME $HOSTNAME; exit 3"],
      workingDir: "/tmp",
      envs: [{ key: "GREETING", value: Buffer.from("hé llo") }],
    });
    await daemon.client.runtime.startContainer({ containerId: id });
    const { exitCode, logPath } = await exited(daemon, id);
    assert.equal(exitCode, 3);
    assert.match(readFileSync(logPath, "utf8"), new RegExp(` stdout F hé llo /tmp /root ${pod.config.hostname}\n$`));
  });
});
