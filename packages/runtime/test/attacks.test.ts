/**
 * What images, volumes and configurations have done to other runtimes. Each attack is tried, and tried again with its
 * mitigation taken out of the plan, which must show that the test would have noticed.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { chmod, mkdir, mkdtemp, open, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { orderWords, type Order } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { planContainer, planExec, type ContainerContext } from "../src/index.ts";
import { Machine, makeRootfs, shellSpec, whyNot, withLinux, withProcess, type Outcome } from "./support/machine.ts";

const why = await whyNot();
let machine: Machine;
before(async () => {
  if (why === undefined) machine = await Machine.start();
});
after(async () => {
  if (why === undefined) await machine[Symbol.asyncDispose]();
});

function attack(name: string, body: (t: TestContext) => Promise<void>): void {
  test(name, why === undefined ? {} : { skip: why }, body);
}

/** A root file system of the attacker's own. */
async function evilRootfs(): Promise<string> {
  const path = await mkdtemp(join(machine.directory, "evil-"));
  await chmod(path, 0o755);
  await makeRootfs(path);
  return path;
}

const on = (path: string): Partial<ContainerContext> => ({ rootfs: { kind: "path", path } });

/** Runs a plan with some of its orders changed (undefined: left out), to its end. */
async function runChanged(
  spec: oci.Spec,
  overrides: Partial<ContainerContext>,
  change: (order: Order) => Order | undefined,
): Promise<Outcome> {
  const context = machine.context(overrides);
  const planned = planContainer(spec, context);
  const orders = planned.plan.orders.map(change).filter((order) => order !== undefined);
  const running = await machine.createPlanned({ plan: { orders }, warnings: [] }, context);
  try {
    await running.link.start();
    const state = await running.link.exited;
    return { stdout: await readFile(running.logPath, "utf8"), stderr: "", state, warnings: [] };
  } finally {
    await machine.end(running);
  }
}

const lenient = (order: Order): Order =>
  order.order === "move_mount" ? { ...order, args: { ...order.args, strict: 0 } } : order;

for (const directory of ["proc", "sys"] as const) {
  attack(`CVE-2019-19921, CVE-2023-27561: /${directory} of the image is a symlink`, async () => {
    const rootfs = await evilRootfs();
    await mkdir(join(rootfs, "elsewhere"));
    await symlink("elsewhere", join(rootfs, directory));
    await assert.rejects(
      machine.run("true", undefined, on(rootfs)),
      new RegExp(`attach fd \\d+ at /${directory} \\(mounts\\[\\d\\]\\): (ELOOP|ENOTDIR)`),
    );
    const fooled = await runChanged(
      withLinux({ maskedPaths: [], readonlyPaths: [] })(shellSpec("ls /elsewhere | head -3; mount")),
      on(rootfs),
      lenient,
    );
    assert.match(fooled.stdout, new RegExp(`on /elsewhere type ${directory}`), "without `strict` it is fooled");
  });
}

attack("CVE-2019-16884: mounts over /proc, or inside it, are not made", async () => {
  const bind = (destination: string, source = "/tmp"): oci.Spec => ({
    ...shellSpec("true"),
    mounts: [...(shellSpec("").mounts ?? []), { destination, type: "bind", source, options: ["bind"] }],
  });
  for (const destination of ["/proc", "/proc/self/attr", "/proc/../proc/sys", "proc/1", "//proc/./kcore"]) {
    assert.throws(() => planContainer(bind(destination), machine.context()), /mounts\[7\]\.destination/, destination);
  }
  planContainer(bind("/proc/meminfo"), machine.context());
  planContainer(bind("/process"), machine.context());
  await Promise.resolve();
});

attack("CVE-2019-16884: an image's link leads a mount onto /proc", async () => {
  const rootfs = await evilRootfs();
  await symlink("/proc/self/attr", join(rootfs, "data"));
  await symlink("proc/version", join(rootfs, "file"));
  const volume = await mkdtemp(join(machine.directory, "volume-"));
  await writeFile(join(volume, "fooled"), "");
  const onto = (destination: string, source: string): oci.Spec => ({
    ...withLinux({ maskedPaths: [], readonlyPaths: [] })(shellSpec("ls /proc/self/attr/fooled; cat /proc/version")),
    mounts: [...(shellSpec("").mounts ?? []), { destination, type: "bind", source, options: ["bind"] }],
  });
  for (const [destination, source] of [
    ["/data", volume],
    ["/file", join(volume, "fooled")],
  ] as const) {
    await assert.rejects(
      machine.run("", () => onto(destination, source), on(rootfs)),
      new RegExp(`attach fd \\d+ at ${destination} \\(mounts\\[7\\]\\): EPERM: ${destination} leads to a procfs`),
    );
  }
  // /proc/self is another process's by the time the script looks; a file is the same for all.
  const fooled = await runChanged(onto("/file", "/etc/hostname"), on(rootfs), (order) =>
    order.order === "move_mount" ? { ...order, args: { ...order.args, strict: 2 } } : order,
  );
  assert.doesNotMatch(fooled.stdout, /Linux version/, "without the check it is fooled");
});

attack("CVE-2021-30465, CVE-2024-45310: a destination that is a symlink out of the image stays inside", async () => {
  const rootfs = await evilRootfs();
  const outside = await mkdtemp(join(machine.directory, "outside-"));
  for (const [name, target] of [
    ["absolute", outside],
    ["climbing", `../../../../../../..${outside}`],
  ] as const) {
    await symlink(target, join(rootfs, name));
    const mounts = [
      ...(shellSpec("").mounts ?? []),
      { destination: `/${name}/made/deep`, type: "bind", source: "/etc", options: ["bind", "ro"] },
    ];
    const { stdout, state } = await machine.run(
      `grep -c ' ${outside}/made/deep ' /proc/self/mountinfo`,
      (spec) => ({ ...spec, mounts }),
      on(rootfs),
    );
    assert.deepEqual([state.code, stdout.trim()], [0, "1"], name);
    assert.deepEqual(await readdir(outside), [], "nothing was made outside");
    await rm(join(rootfs, outside), { recursive: true });
  }
});

attack("CVE-2026-41579: /dev of the image is a symlink out of it", async () => {
  const rootfs = await evilRootfs();
  const outside = await mkdtemp(join(machine.directory, "outside-"));
  await symlink(outside, join(rootfs, "dev"));
  const mounts = (shellSpec("").mounts ?? []).filter(({ destination }) => !destination.startsWith("/dev"));
  const { state, stdout } = await machine.run("stat -c %F /dev/null", (spec) => ({ ...spec, mounts }), on(rootfs));
  assert.deepEqual([state.code, stdout.trim()], [0, "character special file"]);
  assert.deepEqual(await readdir(outside), []);
  assert.ok((await readdir(join(rootfs, outside))).includes("null"), "made inside instead");
});

attack("an image that has another thing where a device belongs", async () => {
  const rootfs = await evilRootfs();
  await mkdir(join(rootfs, "dev"));
  await writeFile(join(rootfs, "dev/zero"), "not a device");
  const mounts = (shellSpec("").mounts ?? []).filter(({ destination }) => !destination.startsWith("/dev"));
  await assert.rejects(
    machine.run("true", (spec) => ({ ...spec, mounts }), on(rootfs)),
    /make device \/dev\/zero 1:5.*EEXIST/,
  );
});

attack("CVE-2025-31133: /dev/null is a symlink to what would be put over the masked path", async () => {
  const dev = await mkdtemp(join(machine.directory, "dev-"));
  await writeFile(join(dev, "secret"), "secret\n");
  await symlink("secret", join(dev, "null"));
  const withDev = (spec: oci.Spec): oci.Spec => ({
    ...withLinux({ maskedPaths: ["/proc/version"] })(spec),
    mounts: [
      ...(spec.mounts ?? []).filter(({ destination }) => !destination.startsWith("/dev")),
      { destination: "/dev", type: "bind", source: dev, options: ["bind"] },
    ],
  });
  await assert.rejects(machine.run("true", withDev), /check that fd \d+ is device 1:3 \(CVE-2025-31133\): EINVAL/);
  const fooled = await runChanged(withDev(shellSpec("cat /proc/version")), {}, (order) =>
    order.order === "check_device"
      ? undefined
      : order.order === "open" && order.args.path === "/dev/null"
        ? { ...order, args: { ...order.args, flags: 0x200000n } }
        : order,
  );
  assert.match(fooled.stdout, /stdout F secret/, "without the check it is fooled");
});

attack("CVE-2024-21626: no working directory outside the container", async () => {
  const inside = "test $(stat -c %d:%i ../../../../../../../../..) = $(stat -c %d:%i /) && echo inside";
  for (const fd of [...Array.from({ length: 17 }, (_, index) => index + 3), 127]) {
    for (const cwd of [`/proc/self/fd/${fd}`, `/proc/self/fd/${fd}/../../..`]) {
      // What one of bosun's descriptors leads to is refused, unless that is the container's own root.
      const outcome = await machine.run(inside, withProcess({ cwd })).catch((error: Error) => error);
      if (outcome instanceof Error) assert.match(outcome.message, /(chdir|make directory) \/proc\/self/, cwd);
      else assert.equal(outcome.stdout, "inside\n", cwd);
    }
  }
  // A directory of the host that is left open by mistake: the check after chdir is what refuses it.
  const leak: Order = { order: "open", args: { slot: 120, path: "/etc", flags: 0n }, because: "a leak" };
  let refused = 0;
  for (let fd = 3; fd < 64 && refused === 0; fd++) {
    const context = machine.context();
    const into: Order = { order: "chdir", args: { path: `/proc/self/fd/${fd}`, tolerate: 1 }, because: "the attack" };
    const { plan } = planContainer(shellSpec("true"), context);
    const orders = plan.orders.flatMap((order): Order[] =>
      order.order === "enter_empty_mounts" ? [leak, order] : order.order === "bounding" ? [into, order] : [order],
    );
    const outcome = await machine
      .createPlanned({ plan: { orders }, warnings: [] }, context)
      .catch((error: Error) => error);
    if (!(outcome instanceof Error)) await machine.end(outcome);
    else if (/EPERM: chdir .*outside the container's root/.test(outcome.message)) refused++;
    else assert.match(outcome.message, /chdir .*ENOTDIR/);
  }
  assert.ok(refused > 0, "the leak was among them");
});

attack("CVE-2024-21626: exec has no way out by descriptors either", async () => {
  const running = await machine.create(shellSpec("sleep 60"));
  try {
    await running.link.start();
    const spec = shellSpec("");
    for (let fd = 3; fd < 12; fd++) {
      for (const change of [
        { cwd: `/proc/self/fd/${fd}` },
        { args: [`/proc/self/fd/${fd}`] },
        { args: [`/proc/self/fd/${fd}/bin/sh`] },
      ]) {
        const { plan } = planExec(
          { pid: running.pid, spec, cgroup: running.context.cgroup },
          { ...(spec.process as oci.Process), ...change },
          { host: machine.host, terminal: false },
        );
        await assert.rejects(running.link.execSync({ plan }), /E(NOENT|NOTDIR|ACCES|PERM)/, JSON.stringify(change));
      }
    }
  } finally {
    await machine.end(running);
  }
});

attack("CVE-2016-9962: who shares the PID namespace cannot look into a process that is being made", async () => {
  const victim = machine.context();
  const planned = planContainer(shellSpec("true"), victim);
  const spy = (spec: oci.Spec, pid: number): oci.Spec =>
    withLinux({ namespaces: [{ type: "mount" }, { type: "pid", path: `/proc/${pid}/ns/pid` }] })({
      ...spec,
      hostname: undefined,
    });
  const look = async (orders: readonly Order[], context: ContainerContext): Promise<string> => {
    const running = await machine.createPlanned({ plan: { orders }, warnings: [] }, context);
    try {
      const { stdout } = await machine.run("readlink /proc/1/exe >/dev/null && echo seen || echo hidden", (spec) =>
        spy(spec, running.pid),
      );
      return stdout.trimEnd().split("\n").at(-1) ?? "";
    } finally {
      await machine.end(running);
    }
  };
  assert.equal(await look(planned.plan.orders, victim), "hidden");
  const naive = machine.context();
  assert.equal(
    await look(
      planContainer(shellSpec("true"), naive).plan.orders.filter(({ order }) => order !== "dumpable"),
      naive,
    ),
    "seen",
    "without `dumpable` it is seen",
  );
});

attack("CVE-2019-5736: what runs in the container's namespaces is not the host's file", async () => {
  const running = await machine.create(shellSpec("true"));
  try {
    const exe = await readlink(`/proc/${running.pid}/exe`);
    assert.ok(!exe.endsWith("/.build/native/bosun"), exe);
    assert.match(exe, /memfd|deleted/);
  } finally {
    await machine.end(running);
  }
});

attack("CVE-2019-5736: a descriptor of bosun's executable writes nothing, whoever holds it", async () => {
  const bosun = new URL("../../../.build/native/bosun", import.meta.url).pathname;
  const before = createHash("sha256")
    .update(await readFile(bosun))
    .digest("hex");
  const overwrite = async (pid: number, end: () => Promise<void>): Promise<string> => {
    const held = await open(`/proc/${pid}/exe`, "r");
    try {
      await end();
      const writing = await open(`/proc/self/fd/${held.fd}`, "r+");
      try {
        await writing.write("evil", 0);
        return "written";
      } finally {
        await writing.close();
      }
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? String(error);
    } finally {
      await held.close();
    }
  };
  // Until the last bosun that runs from it has ended it is busy; from then on the seals alone stand in the way.
  const own = await Machine.start();
  const victim = await own.create(shellSpec("true"));
  const end = async () => {
    await own.end(victim);
    await own[Symbol.asyncDispose]();
  };
  assert.equal(await overwrite(victim.pid, end), "EPERM");
  assert.equal(
    createHash("sha256")
      .update(await readFile(bosun))
      .digest("hex"),
    before,
  );
  // The same attack on a program that is a file like any other.
  const rootfs = await evilRootfs();
  const plain = await machine.create(shellSpec("sleep 60"), on(rootfs));
  await plain.link.start();
  assert.equal(
    await overwrite(plain.pid, () => machine.end(plain)),
    "written",
    "the attack works where nothing is sealed",
  );
});

attack("CVE-2025-52565: /dev/console of the image is a symlink", async () => {
  const rootfs = await evilRootfs();
  const outside = join(machine.directory, "console-target");
  await writeFile(outside, "untouched");
  await mkdir(join(rootfs, "dev"));
  await symlink(outside, join(rootfs, "dev/console"));
  const mounts = (shellSpec("").mounts ?? []).filter(({ destination }) => destination !== "/dev");
  await machine
    .run("tty", (spec) => ({ ...spec, mounts }), { ...on(rootfs), terminal: true })
    .catch((error: Error) => assert.match(error.message, /open the terminal/));
  assert.equal(await readFile(outside, "utf8"), "untouched");
});

attack("CVE-2025-52881: sysctls are written to a procfs that the container has not touched", async () => {
  const { plan } = planContainer(
    withLinux({ sysctl: { "net.ipv4.ip_forward": "1" } })(shellSpec("true")),
    machine.context(),
  );
  const words = plan.orders.map(orderWords);
  const [made, written, attached] = [
    words.findIndex((one) => one.startsWith("make proc mount")),
    words.findIndex((one) => one.startsWith('write "1" to /proc/')),
    words.indexOf("attach the rootfs at /rootfs"),
  ];
  assert.ok(made >= 0 && made < written && written < attached, "before there is any file of the container");
  // A volume in the place of /proc/sys would get them otherwise; it is refused as well.
  assert.throws(
    () =>
      planContainer(
        { ...shellSpec(""), mounts: [{ destination: "/proc/sys", type: "tmpfs", source: "t" }] },
        machine.context(),
      ),
    /inside \/proc/,
  );
  await Promise.resolve();
});

attack("CVE-2022-29162: no inheritable capability that was not asked for", async () => {
  const { stdout } = await machine.run("grep CapInh /proc/self/status");
  assert.equal(stdout.trim(), "CapInh:\t0000000000000000");
});

attack("a host sysctl is not set through a container", async () => {
  for (const name of ["kernel.core_pattern", "vm.swappiness", "net/../kernel/core_pattern"]) {
    assert.throws(
      () => planContainer(withLinux({ sysctl: { [name]: "|/evil" } })(shellSpec("true")), machine.context()),
      /linux\.sysctl/,
      name,
    );
  }
  const hostNetwork = (shellSpec("").linux?.namespaces ?? []).filter(({ type }) => type !== "network");
  assert.throws(
    () =>
      planContainer(
        withLinux({ namespaces: hostNetwork, sysctl: { "net.ipv4.ip_forward": "1" } })(shellSpec("true")),
        machine.context(),
      ),
    /needs a network namespace/,
  );
  await Promise.resolve();
});
