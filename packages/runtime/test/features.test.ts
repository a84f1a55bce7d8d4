/** What the runtime specification offers beyond the usual container, each tried in a real one. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chown, mkdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cgroupDirectories } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { intelRdtRemoval, planContainer, planExec } from "../src/index.ts";
import { intelRdtUpdate } from "../src/rdt.ts";
import { container, execIn, lines, machine, ownRootfs, scratch, useMachine, withMount } from "./support/containers.ts";
import { shellSpec, withLinux, withProcess } from "./support/machine.ts";

useMachine();

container("three hundred bind mounts", async () => {
  const source = await scratch("source");
  await writeFile(join(source, "here"), "yes\n");
  const binds = Array.from({ length: 300 }, (_, index): oci.Mount => ({
    destination: `/many/${index}`,
    type: "bind",
    source,
    options: ["bind", "ro"],
  }));
  const rootfs = await ownRootfs();
  const said = await lines(
    "cat /many/299/here; grep -c ' /many/' /proc/self/mountinfo; ulimit -n",
    (spec) => withMount(spec, ...binds),
    { rootfs },
  );
  assert.deepEqual(said.slice(0, 2), ["yes", "300"]);
  const own = execFileSync("/bin/sh", ["-c", "ulimit -n"]).toString().trim();
  assert.equal(said[2], own, "the limit that bosun raised for itself is not the container's");
});

container("HOME comes from the image's passwd where it is unset or empty", async () => {
  const rootfs = await ownRootfs();
  await writeFile(
    join(rootfs.path, "etc/passwd"),
    "root:x:0:0:root:/root:/bin/sh\nshort:x:7\nx:x:1000:1000::/home/x:/bin/sh\n",
  );
  const home = async (uid: number, env: string[]) =>
    (await lines("echo $HOME", withProcess({ user: { uid, gid: 0 }, env: ["PATH=/bin", ...env] }), { rootfs }))[0];
  assert.equal(await home(1000, []), "/home/x");
  assert.equal(await home(1000, ["HOME="]), "/home/x");
  assert.equal(await home(1000, ["HOME=/set"]), "/set");
  assert.equal(await home(0, []), "/root");
  assert.equal(await home(4711, []), "/", "who is not there");
  await rm(join(rootfs.path, "etc/passwd"));
  await symlink("/proc/self/environ", join(rootfs.path, "etc/passwd"));
  assert.equal(await home(1000, []), "/", "what is no file");
});

container("personality, memory policy and CPU affinity", async () => {
  const said = await lines(
    "uname -m; head -n 1 /proc/self/numa_maps; grep Cpus_allowed_list /proc/self/status",
    (spec) =>
      withLinux({
        personality: { domain: "LINUX32" },
        memoryPolicy: { mode: "MPOL_BIND", nodes: "0", flags: ["MPOL_F_STATIC_NODES"] },
      })(spec),
    { rootfs: await ownRootfs() },
  );
  if (process.arch === "x64") assert.equal(said[0], "i686");
  assert.match(said[1] ?? "", /^\S+ bind=static:0 /);
  assert.match(said[2] ?? "", /Cpus_allowed_list:\t0/);
});

container("execCPUAffinity of a further process", async (t) => {
  if ((await readFile("/sys/devices/system/cpu/online", "utf8")).trim() === "0") return t.skip("one CPU");
  const running = await machine().create(shellSpec("sleep 60"));
  try {
    await running.link.start();
    const look = async (execCPUAffinity: oci.Process["execCPUAffinity"]) =>
      (await execIn(running, "grep Cpus_allowed_list /proc/self/status", { execCPUAffinity })).stdout.split("\t")[1];
    assert.equal(await look({ final: "1" }), "1\n");
    // The rest is the kernel's: cgroup v2's cpuset gives a process all of its CPUs as it joins.
    assert.match((await look({ initial: "0" })) ?? "", /^0(?:-\d+)?\n$/);
    assert.equal(await look({ initial: "0", final: "0-1" }), "0-1\n");
    assert.match((await look(undefined)) ?? "", /^0-\d+\n$/);
  } finally {
    await machine().end(running);
  }
});

container("tmpcopyup: a tmpfs that begins with what the image has", async () => {
  const rootfs = await ownRootfs();
  const from = join(rootfs.path, "seed");
  await mkdir(join(from, "sub"), { recursive: true, mode: 0o755 });
  await writeFile(join(from, "file"), "content\n", { mode: 0o640 });
  await chown(join(from, "file"), 5, 6);
  await symlink("file", join(from, "link"));
  execFileSync("mknod", [join(from, "sub/fifo"), "p"]);
  const said = await lines(
    "cat /seed/file; stat -c '%a %u:%g' /seed/file; readlink /seed/link; stat -c %F /seed/sub/fifo; stat -f -c %T /seed; touch /seed/new && echo no",
    (spec) =>
      withMount(spec, { destination: "/seed", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup", "ro", "nodev"] }),
    { rootfs },
  ).catch((error: Error) => [error.message]);
  assert.match(said.join("\n"), /Read-only file system|content/);
  const outcome = await machine().run(
    "cat /seed/file; stat -c '%a %u:%g' /seed/file; readlink /seed/link; stat -c %F /seed/sub/fifo; stat -f -c %T /seed; touch /seed/new 2>&1; true",
    (spec) =>
      withMount(spec, { destination: "/seed", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup", "ro", "nodev"] }),
    { rootfs },
  );
  assert.deepEqual(outcome.stdout.trimEnd().split("\n"), [
    "content",
    "640 5:6",
    "file",
    "fifo",
    "tmpfs",
    "touch: /seed/new: Read-only file system",
  ]);
  assert.equal((await stat(join(from, "file"))).uid, 5, "the image is as it was");
});

container("an id-mapped bind, by maps of the mount's own", async () => {
  const source = await scratch("source");
  await writeFile(join(source, "file"), "");
  await chown(join(source, "file"), 1000, 1000);
  const maps = [{ containerID: 1000, hostID: 4000, size: 10 }];
  const outcome = await machine()
    .run("stat -c %u:%g /mapped/file", (spec) =>
      withMount(spec, {
        destination: "/mapped",
        type: "bind",
        source,
        options: ["bind", "idmap"],
        uidMappings: maps,
        gidMappings: maps,
      }),
    )
    .catch((error: Error) => error);
  if (outcome instanceof Error) {
    // Not every file system can be id-mapped; the order and the errno say so.
    assert.match(outcome.message, /MOUNT_ATTR_IDMAP.*EINVAL/);
    return;
  }
  assert.equal(outcome.stdout.trim(), "4000:4000");
});

container("no-pivot: the rootfs is moved over /, and the host's proc is out of reach", async () => {
  const { stdout } = await machine().run(
    "ls /bin/busybox; ls -d /proc/1 /sys/class; mount | grep -c ' type proc'; cd /..; test -d /proc/self && echo root",
    withLinux({ maskedPaths: [], readonlyPaths: [] }),
    { noPivot: true },
  );
  assert.deepEqual(stdout.trimEnd().split("\n"), ["/bin/busybox", "/proc/1", "/sys/class", "1", "root"]);
});

container("a mount namespace that is joined by path", async () => {
  const other = await machine().create(shellSpec("sleep 60"));
  const rootfs = await ownRootfs();
  try {
    const inOther = { ...rootfs, path: "/tmp" };
    const join = withLinux({
      namespaces: [{ type: "mount", path: `/proc/${other.pid}/ns/mnt` }, { type: "pid" }],
      maskedPaths: [],
      readonlyPaths: [],
    });
    const { plan } = planContainer(
      { ...join(shellSpec("true")), hostname: undefined },
      machine().context({ rootfs: inOther }),
    );
    assert.ok(plan.orders.some(({ order, args }) => order === "attach_root" && args.at === "/tmp"));
    assert.ok(!plan.orders.some(({ order }) => order === "enter_empty_mounts"));
    const same = withLinux({ namespaces: [{ type: "mount", path: "/proc/self/ns/mnt" }, { type: "pid" }] });
    await assert.rejects(
      machine().create({ ...same(shellSpec("true")), hostname: undefined }),
      /check that fd \d+ is not the host's mnt namespace \(linux.namespaces\[0\]\): EPERM/,
    );
  } finally {
    await machine().end(other);
  }
});

container("an interface of the host becomes the container's", async (t) => {
  const name = `bt${process.pid % 100_000}a`;
  try {
    execFileSync("ip", ["link", "add", name, "type", "veth", "peer", "name", `${name}p`], { stdio: "pipe" });
  } catch (error) {
    return t.skip(`no veth interfaces here: ${error instanceof Error ? error.message : String(error)}`);
  }
  try {
    execFileSync("ip", ["addr", "add", "198.51.100.7/24", "dev", name]);
    const rename = withLinux({ netDevices: { [name]: { name: "inner0" } } });
    const said = await lines("ip -o addr show dev inner0; ip link show dev inner0", rename);
    assert.match(said[0] ?? "", /inet 198\.51\.100\.7\/24/);
    assert.match(said.join("\n"), /[<,]UP[,>]/);
  } finally {
    // It came back, or went with the namespace: a veth does the latter.
    execFileSync("/bin/sh", ["-c", `ip link del ${name} 2>/dev/null || true`]);
  }
  const missing = withLinux({ netDevices: { nosuchdev0: {} } });
  await assert.rejects(
    machine().create(missing(shellSpec("true"))),
    /move network interface nosuchdev0 .*netDevices\["nosuchdev0"\]\): ENODEV: interface nosuchdev0/,
  );
});

container("Intel RDT, on a tree that looks like resctrl", async () => {
  const resctrl = await scratch("resctrl");
  await mkdir(join(resctrl, "class"));
  for (const file of ["schemata", "tasks"]) await writeFile(join(resctrl, "class", file), "");
  const host = { ...machine().host, resctrl };
  const rdt = withLinux({ intelRdt: { closID: "class", l3CacheSchema: "L3:0=f", memBwSchema: "MB:0=50" } });
  const spec = rdt(shellSpec("true"));
  const context = machine().context({ host });
  const planned = planContainer(spec, context);
  const running = await machine().createPlanned(planned, context);
  await machine().end(running);
  // A real file takes one line a write; a plain one is written over.
  assert.equal(await readFile(join(resctrl, "class/schemata"), "utf8"), "MB:0=50\n");
  assert.equal(await readFile(join(resctrl, "class/tasks"), "utf8"), "0");
  assert.deepEqual(intelRdtRemoval(spec, "id", host).orders, [], "a class with a name is not ours to remove");
  const unnamed = withLinux({ intelRdt: { schemata: ["L3:0=f"], enableMonitoring: true } })(shellSpec("true"));
  const words = planContainer(unnamed, machine().context({ host, id: "own" })).plan.orders.map(({ order, args }) =>
    "path" in args ? `${order} ${String(args.path).replace(resctrl, "")}` : order,
  );
  for (const wanted of ["mkdir /own", "write_file /own/schemata", "write_file /own/tasks", "mkdir /own/mon_groups/own"])
    assert.ok(words.includes(wanted), wanted);
  assert.equal(intelRdtRemoval(unnamed, "own", host).orders.length, 2);
});

container("other schemas of Intel RDT, for a container in a class and for one in none", async () => {
  const resctrl = await scratch("resctrl");
  for (const name of ["class", "info/L3", "info/MB", "one"]) await mkdir(join(resctrl, name), { recursive: true });
  for (const name of ["class", "one"])
    for (const file of ["schemata", "tasks"]) await writeFile(join(resctrl, name, file), "");
  const host = { ...machine().host, resctrl };
  const who = { id: "one", pid: 4321, host };
  const before = withLinux({ intelRdt: { closID: "class", memBwSchema: "MB:0=50" } })(shellSpec("true"));
  const { plan, intelRdt } = intelRdtUpdate(before, who, { l3CacheSchema: "L3:0=3" });
  await machine().hand.run(plan);
  assert.equal(await readFile(join(resctrl, "class/schemata"), "utf8"), "L3:0=3\n");
  assert.equal(await readFile(join(resctrl, "class/tasks"), "utf8"), "", "it is in its class already");
  assert.deepEqual(intelRdt, { closID: "class", memBwSchema: "MB:0=50", l3CacheSchema: "L3:0=3" });
  await machine().hand.run(intelRdtUpdate(shellSpec("true"), who, { memBwSchema: "MB:0=70" }).plan);
  assert.equal(await readFile(join(resctrl, "one/schemata"), "utf8"), "MB:0=70\n");
  assert.equal(await readFile(join(resctrl, "one/tasks"), "utf8"), "4321");
  await rm(join(resctrl, "info/MB"), { recursive: true });
  assert.throws(
    () => intelRdtUpdate(before, who, { memBwSchema: "MB:0=1" }),
    /Intel RDT\/MBA: memory bandwidth schema is not enabled/,
  );
  assert.throws(
    () => intelRdtUpdate(before, { ...who, host: machine().host }, { l3CacheSchema: "L3:0=1" }),
    /Intel RDT\/CAT: l3 cache schema is not enabled/,
  );
});

container("sysctls of a joined namespace that is the host's own are refused", async () => {
  const host = withLinux({
    namespaces: [{ type: "mount" }, { type: "network", path: "/proc/self/ns/net" }],
    sysctl: { "net.ipv4.ip_forward": "1" },
  });
  await assert.rejects(
    machine().create({ ...host(shellSpec("true")), hostname: undefined }),
    /not the host's net namespace .*EPERM: the net namespace to join is the host's own/,
  );
});

container("device rules by a BPF program on cgroup v2", async (t) => {
  const { host } = machine();
  if (host.cgroups.unified === undefined) return t.skip("no cgroup v2 is mounted");
  // As a machine of cgroup v2 alone would be planned for.
  const v2 = { ...host, cgroups: { ...host.cgroups, mode: "v2" as const, v1: [] } };
  const rules = withLinux({
    resources: {
      devices: [
        { allow: false },
        { allow: true, type: "b", major: 7, minor: 6, access: "r" },
        { allow: true, type: "b", major: 7, minor: 5, access: "r" },
        { allow: true, type: "b", major: 7, minor: 5, access: "w" },
      ],
    },
    devices: [4, 5, 6].map((minor) => ({ path: `/dev/b${minor}`, type: "b", major: 7, minor })),
  });
  // A loop device that has nothing is opened, or is not there (ENXIO): only the rules say EPERM.
  const attempt = (name: string, how: string) =>
    `(: ${how}/dev/${name}) 2>&1 | grep -q 'not permitted' && echo '${name} ${how} no' || echo '${name} ${how} yes'; `;
  const script = [
    attempt("null", "<>"),
    ...["b4", "b5", "b6"].flatMap((name) => ["<", ">>", "<>"].map((how) => attempt(name, how))),
  ].join("");
  const spec = rules(shellSpec(script));
  const mounts = (spec.mounts ?? []).filter(({ type }) => type !== "cgroup");
  const { stdout } = await machine().run("", () => ({ ...spec, mounts }), { host: v2 });
  const yes = stdout.split("\n").filter((line) => line.endsWith("yes"));
  assert.deepEqual(yes, ["null <> yes", "b5 < yes", "b5 >> yes", "b5 <> yes", "b6 < yes"], stdout);
});

container("a block device's file system is mounted from the host's path", async (t) => {
  const directory = await scratch("image");
  const image = join(directory, "fs.img");
  let device: string;
  try {
    execFileSync("/bin/sh", ["-c", `truncate -s 4M ${image} && mkfs.ext4 -q ${image}`], { stdio: "pipe" });
    device = execFileSync("losetup", ["-f", "--show", image], { stdio: "pipe" }).toString().trim();
  } catch (error) {
    return t.skip(`no loop device or mkfs.ext4 here: ${error instanceof Error ? error.message : String(error)}`);
  }
  try {
    const said = await lines("grep ' /disk ' /proc/mounts; touch /disk/x && echo written", (spec) =>
      withMount(spec, { destination: "/disk", type: "ext4", source: device, options: ["nosuid", "data=ordered"] }),
    );
    assert.match(said[0] ?? "", /\/disk ext4 rw,nosuid/);
    assert.equal(said[1], "written");
  } finally {
    execFileSync("losetup", ["-d", device]);
  }
});

container("the process's session keyring may be searched by its owner", async () => {
  const [line = ""] = await lines(
    "test -e /proc/keys || exit 0; grep _ses.searched /proc/keys",
    withLinux({ maskedPaths: [] }),
    { id: "searched" },
  );
  if (line === "") return; // a kernel without keys
  const permissions = Number.parseInt(/ ([0-9a-f]{8}) /.exec(line)?.[1] ?? "0", 16);
  assert.equal(permissions & 0x080000, 0x080000, line);
});

container("nothing of the host is in a container's command line before it runs", async () => {
  const running = await machine().create(shellSpec("true"));
  try {
    const command = await readFile(`/proc/${running.pid}/cmdline`, "utf8");
    assert.equal(command.replaceAll("\0", ""), "bosun");
    assert.doesNotMatch(await readFile(`/proc/${running.pid}/environ`, "utf8"), /=/);
  } finally {
    await machine().end(running);
  }
});

container("a v2 cgroup that may be written to belongs to the container's root", async (t) => {
  const { host } = machine();
  if (host.cgroups.mode !== "v2") return t.skip("needs cgroup v2 alone");
  const uid = 100_000;
  const maps = [{ containerID: 0, hostID: uid, size: 65_536 }];
  const spec = shellSpec("sleep 60");
  const mounts = (spec.mounts ?? []).map((mount) =>
    mount.type === "cgroup" ? { ...mount, options: ["nosuid", "rw"] } : mount,
  );
  const namespaces = [...(spec.linux?.namespaces ?? []), { type: "user" as const }];
  const rootfs = await ownRootfs();
  execFileSync("chown", ["-R", `${uid}:${uid}`, rootfs.path]);
  const running = await machine().create(
    withLinux({ namespaces, uidMappings: maps, gidMappings: maps })({ ...spec, mounts }),
    { rootfs },
  );
  try {
    const directory = cgroupDirectories(running.context.cgroup.path, host.cgroups).unified ?? "";
    assert.equal((await stat(directory)).uid, uid);
    assert.equal((await stat(join(directory, "cgroup.procs"))).uid, uid);
    assert.equal((await stat(join(directory, "cgroup.events"))).uid, 0, "what is not to be given away stays");
  } finally {
    await machine().end(running);
  }
});

container("an exec session carries the container's personality", async (t) => {
  if (process.arch !== "x64") return t.skip("x86 alone");
  const running = await machine().create(withLinux({ personality: { domain: "LINUX32" } })(shellSpec("sleep 60")));
  try {
    await running.link.start();
    const spec = withLinux({ personality: { domain: "LINUX32" } })(shellSpec("uname -m"));
    const { plan } = planExec(
      { pid: running.pid, spec, cgroup: running.context.cgroup },
      { ...(spec.process as oci.Process) },
      { host: machine().host, terminal: false },
    );
    const { stdout } = await running.link.execSync({ plan });
    assert.equal(Buffer.from(stdout).toString(), "i686\n");
  } finally {
    await machine().end(running);
  }
});
