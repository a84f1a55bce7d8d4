/** Real containers whose namespaces are a pod's, or a user's; and processes that are executed in them. */
import assert from "node:assert/strict";
import { lchown, mkdtemp, readdir, readFile, readlink } from "node:fs/promises";
import { join } from "node:path";
import { compileSeccomp, defaultSeccomp, STREAM } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { planExec, type Rootfs } from "../src/index.ts";
import { container, execIn, lines, machine, useMachine } from "./support/containers.ts";
import { makeRootfs, shellSpec, withLinux } from "./support/machine.ts";

useMachine();

const SHIFT = 200_000;

function inUserNamespace(spec: oci.Spec): oci.Spec {
  const maps = [{ containerID: 0, hostID: SHIFT, size: 65_536 }];
  const namespaces = [...(spec.linux?.namespaces ?? []), { type: "user" } as const];
  return withLinux({ uidMappings: maps, gidMappings: maps, namespaces })(spec);
}

/** A root file system that belongs to the namespace's root, as a snapshotter would hand it over. */
async function shiftedRootfs(): Promise<Rootfs> {
  const path = await mkdtemp(join(machine().directory, "shifted-"));
  await makeRootfs(path);
  for (const entry of await readdir(path, { recursive: true })) await lchown(join(path, entry), SHIFT, SHIFT);
  await lchown(path, SHIFT, SHIFT);
  return { kind: "path", path };
}

container("a user namespace of its own: root inside is nobody outside, and all mounts still work", async () => {
  const running = await machine().create(
    inUserNamespace(
      shellSpec(
        "id -u; cat /proc/self/uid_map; stat -c '%u %F' /dev/null /dev/shm /sys; echo x > /dev/null; head -c 1 /dev/zero | wc -c; hostname; touch /dev/shm/x && stat -c %u /dev/shm/x; cat /proc/self/status | grep CapEff",
      ),
    ),
    { rootfs: await shiftedRootfs() },
  );
  try {
    assert.match(await readFile(`/proc/${running.pid}/status`, "utf8"), /^Uid:\t200000\t/m);
    await running.link.start();
    const state = await running.link.exited;
    const log = await readFile(running.logPath, "utf8");
    assert.equal(state.code, 0, log);
    const out = log
      .trim()
      .split("\n")
      .map((line) => line.split(" ").slice(3).join(" "));
    assert.equal(out[0], "0");
    assert.match(out[1] ?? "", /0 +200000 +65536/);
    assert.deepEqual(
      out.slice(2, 8),
      ["65534 character special file", "0 directory", "65534 directory", "1", "berth-test", "0"],
      log,
    );
  } finally {
    await machine().end(running);
  }
});

container("namespaces joined by path, as a pod's are", async () => {
  const pins = await mkdtemp(join(machine().directory, "pins-"));
  const names = ["net", "ipc", "uts"] as const;
  await machine().hand.run({
    orders: [
      { order: "unshare", args: { flags: 0x4000_0000n | 0x800_0000n | 0x400_0000n } },
      { order: "hostname", args: { hostname: "the-pod", domainname: "" } },
      ...names.map((name) => ({ order: "pin_ns", args: { name, path: join(pins, name) } }) as const),
    ],
  });
  try {
    const namespaces: oci.LinuxNamespace[] = [
      { type: "pid" },
      { type: "mount" },
      { type: "cgroup" },
      { type: "network", path: join(pins, "net") },
      { type: "ipc", path: join(pins, "ipc") },
      { type: "uts", path: join(pins, "uts") },
    ];
    const join1 = (spec: oci.Spec): oci.Spec => ({ ...withLinux({ namespaces })(spec), hostname: undefined });
    const script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; hostname";
    const [first, second] = await Promise.all([lines(script, join1), lines(script, join1)]);
    assert.deepEqual(first, second);
    assert.equal(first[2], "the-pod");
    // The wrong type is an error, not another namespace.
    const wrong = (spec: oci.Spec) =>
      withLinux({ namespaces: [{ type: "pid" }, { type: "network", path: join(pins, "ipc") }] })({
        ...spec,
        hostname: undefined,
      });
    await assert.rejects(machine().run("true", wrong), /join namespaces CLONE_NEWNET .*linux\.namespaces\[1\].*EINVAL/);
  } finally {
    await machine().hand.run({
      orders: names.map((name) => ({ order: "unpin", args: { path: join(pins, name) } }) as const),
    });
  }
});

container("exec: in all its namespaces and cgroups, as asked, and not the container's first process", async () => {
  const seccomp = await compileSeccomp(defaultSeccomp([]));
  const running = await machine().create(shellSpec("sleep 60"));
  try {
    await running.link.start();
    const run = await execIn(
      running,
      "for n in net pid cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup; id -u; cat /proc/self/status | grep -E 'Seccomp:|NoNewPrivs'; pwd; ls /proc/self/fd",
      { user: { uid: 12, gid: 13 }, cwd: "/etc" },
      seccomp,
    );
    assert.deepEqual([run.code, run.stderr], [0, ""]);
    const out = run.stdout.split("\n");
    const links = await Promise.all(
      ["net", "pid", "cgroup"].map((name) => readlink(`/proc/${running.pid}/ns/${name}`)),
    );
    assert.deepEqual(out.slice(0, 3), links);
    for (const line of out.slice(3).filter((one) => /^\d+:.*:/.test(one))) assert.match(line, /:\/$/);
    assert.ok(
      run.stdout.includes("\n12\n") &&
        run.stdout.includes("NoNewPrivs:\t1") &&
        run.stdout.includes("Seccomp:\t2") &&
        run.stdout.includes("\n/etc\n"),
      run.stdout,
    );
    assert.deepEqual(out.slice(-5, -1), ["0", "1", "2", "3"]);
    const procs = await Promise.all(
      machine().host.cgroups.v1.map(({ mountpoint }) =>
        readFile(`${mountpoint}${running.context.cgroup.path}/cgroup.procs`, "utf8"),
      ),
    );
    for (const one of procs) assert.equal(one.trim(), String(running.pid), "the exec has gone");
    assert.equal((await execIn(running, "exit 7")).code, 7);
  } finally {
    await machine().end(running);
  }
});

container("exec in a user namespace, and with a terminal", async () => {
  const spec = inUserNamespace(shellSpec("sleep 60"));
  const running = await machine().create(spec, { rootfs: await shiftedRootfs() });
  try {
    await running.link.start();
    const process = {
      ...(spec.process as oci.Process),
      args: ["/bin/sh", "-c", "id -u; cat /proc/self/uid_map; tty; stty size"],
    };
    const { plan } = planExec({ pid: running.pid, spec, cgroup: running.context.cgroup }, process, {
      host: machine().host,
      terminal: true,
      consoleSize: { height: 10, width: 20 },
    });
    const { session } = await running.link.exec({ plan, terminal: { rows: 10, columns: 20 }, streams: STREAM.stdout });
    const socket = await running.link.attach(session, STREAM.stdout);
    let text = "";
    for await (const chunk of socket) text += String(chunk);
    assert.deepEqual(await running.link.wait(session), { code: 0, signal: 0 });
    const out = text.split("\r\n");
    assert.equal(out[0], "0");
    assert.match(out[1] ?? "", /0 +200000 +65536/);
    assert.deepEqual(out.slice(2, 4), ["/dev/pts/0", "10 20"]);
  } finally {
    await machine().end(running);
  }
});
