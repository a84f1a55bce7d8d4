/** Real containers, seen from inside. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { compileSeccomp, defaultSeccomp } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { planContainer } from "../src/index.ts";
import { container, lines, machine, useMachine, withMount } from "./support/containers.ts";
import { shellSpec, withLinux, withProcess } from "./support/machine.ts";

useMachine();

container("namespaces are its own: PID 1, hostname, only lo and up, cgroups from their root", async () => {
  const [pid, host, lo, ...cgroups] = await lines(
    "echo $$; hostname; ip link show lo | head -1; cat /proc/self/cgroup",
  );
  assert.deepEqual([pid, host], ["1", "berth-test"]);
  assert.match(lo ?? "", /<LOOPBACK,UP/);
  for (const line of cgroups) assert.match(line, /^\d+:[^:]*:\/$/);
});

container("mounts are those of the configuration, with their options, and the host's are gone", async () => {
  const table = new Map(
    (await lines("cat /proc/self/mountinfo")).map((line) => {
      const [left = "", right = ""] = line.split(" - ");
      const fields = left.split(" ");
      return [
        fields[4] ?? "",
        { options: fields[5] ?? "", type: right.split(" ")[0] ?? "", superOptions: right.split(" ")[2] ?? "" },
      ] as const;
    }),
  );
  assert.deepEqual(
    [table.get("/proc")?.type, table.get("/proc")?.options],
    ["proc", "rw,nosuid,nodev,noexec,relatime"],
  );
  assert.equal(table.get("/dev")?.options, "rw,nosuid");
  assert.match(table.get("/dev/pts")?.superOptions ?? "", /gid=5,mode=620,ptmxmode=666/);
  assert.match(table.get("/dev/shm")?.superOptions ?? "", /size=65536k/);
  assert.equal(table.get("/dev/mqueue")?.type, "mqueue");
  assert.match(table.get("/sys")?.options ?? "", /^ro,/);
  assert.match(table.get("/sys/fs/cgroup")?.options ?? "", /^ro,/);
  assert.ok(
    [...table.keys()].every((path) => /^\/($|proc|dev|sys)/.test(path)),
    [...table.keys()].join(" "),
  );
  assert.equal(table.get("/proc/sys")?.options.startsWith("ro,"), true);
});

container("devices work, links are there, and nothing else is", async () => {
  const out = await lines(
    "cd /dev; ls; echo; stat -c '%n %F %t:%T %a' null zero full random urandom tty; for l in ptmx fd stdin stdout stderr; do readlink $l; done; echo x > null; head -c 2 zero | wc -c",
  );
  const listing = out.slice(0, out.indexOf(""));
  assert.deepEqual(listing, [
    "core",
    "fd",
    "full",
    "mqueue",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "stderr",
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "zero",
  ]);
  assert.deepEqual(out.slice(listing.length + 1), [
    ...[
      ["null", "1:3"],
      ["zero", "1:5"],
      ["full", "1:7"],
      ["random", "1:8"],
      ["urandom", "1:9"],
      ["tty", "5:0"],
    ].map(([name, number]) => `${name} character special file ${number} 666`),
    "pts/ptmx",
    "/proc/self/fd",
    "/proc/self/fd/0",
    "/proc/self/fd/1",
    "/proc/self/fd/2",
    "2",
  ]);
});

container("configured devices replace and add", async () => {
  const devices: oci.LinuxDevice[] = [
    { path: "/dev/full", type: "c", major: 1, minor: 7, fileMode: 0o600, uid: 5, gid: 6 },
    { path: "/dev/deep/er/zero", type: "c", major: 1, minor: 5 },
    { path: "/dev/pipe", type: "p" },
  ];
  assert.deepEqual(await lines("stat -c '%F %a %u:%g' /dev/full /dev/deep/er/zero /dev/pipe", withLinux({ devices })), [
    "character special file 600 5:6",
    "character special file 666 0:0",
    "fifo 666 0:0",
  ]);
});

container("masked paths are empty, read-only paths refuse writes", async () => {
  const out = await lines(
    "ls -A /sys/firmware | wc -l; cat /proc/keys /proc/timer_list | wc -c; echo 1 2>/dev/null > /proc/sys/kernel/domainname || echo refused; touch /sys/firmware/x 2>/dev/null || echo refused",
  );
  assert.deepEqual(out, ["0", "0", "refused", "refused"]);
});

container("user, supplementary groups, umask, capabilities, no_new_privs and seccomp are as asked", async () => {
  const seccomp = await compileSeccomp(defaultSeccomp(["CAP_KILL"]));
  const capabilities = {
    bounding: ["CAP_KILL", "CAP_NET_RAW"],
    effective: ["CAP_KILL"],
    permitted: ["CAP_KILL"],
    inheritable: ["CAP_KILL"],
    ambient: ["CAP_KILL"],
  };
  const change = withProcess({ user: { uid: 1000, gid: 1001, additionalGids: [7, 9], umask: 0o077 }, capabilities });
  const status = await lines(
    "cat /proc/self/status; umask; touch /tmp/made; stat -c %a /tmp/made; pwd",
    (spec) => change(withMount(spec, { destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["mode=1777"] })),
    { seccomp },
  );
  const field = (name: string) =>
    status
      .find((line) => line.startsWith(`${name}:`))
      ?.split(/\s+/)
      .slice(1)
      .join(" ")
      .trim();
  assert.equal(field("Uid"), "1000 1000 1000 1000");
  assert.equal(field("Gid"), "1001 1001 1001 1001");
  assert.equal(field("Groups"), "7 9");
  assert.deepEqual(
    [field("CapInh"), field("CapPrm"), field("CapEff"), field("CapBnd"), field("CapAmb")],
    ["20", "20", "20", "2020", "20"].map((hex) => hex.padStart(16, "0")),
  );
  assert.deepEqual([field("NoNewPrivs"), field("Seccomp")], ["1", "2"]);
  assert.deepEqual(status.slice(-3), ["0077", "600", "/"]);
});

container("the default seccomp profile holds, with and without no_new_privs", async () => {
  const seccomp = await compileSeccomp(defaultSeccomp([]));
  for (const noNewPrivileges of [true, false]) {
    const out = await lines(
      "unshare -U true 2>&1 || echo no; mount -t tmpfs x /tmp 2>&1 || echo no; cat /proc/self/status | grep Seccomp:; exit 0",
      withProcess({ noNewPrivileges, user: { uid: 1000, gid: 1000 } }),
      { seccomp },
    );
    assert.equal(out.filter((line) => line === "no").length, 2, out.join("\n"));
    assert.match(out.join("\n"), /Seccomp:\t2/);
  }
  // Without a filter the same unshare is allowed: the filter was what refused it.
  assert.deepEqual(await lines("unshare -U true && echo yes", withProcess({ user: { uid: 1000, gid: 1000 } })), [
    "yes",
  ]);
});

container("rlimits, clamped where this machine does not let them be raised", async () => {
  const rlimits = [
    { type: "RLIMIT_NOFILE", soft: 100, hard: 200 },
    { type: "RLIMIT_CORE", soft: 0, hard: 0 },
    { type: "RLIMIT_MEMLOCK", soft: 18446744073709551615n, hard: 18446744073709551615n },
  ];
  const { stdout, warnings, state } = await machine().run("cat /proc/self/limits", withProcess({ rlimits }));
  assert.equal(state.code, 0);
  assert.match(stdout, /Max open files +100 +200/);
  assert.match(stdout, /Max core file size +0 +0/);
  const mayRaise = (machine().host.capabilities.effective >> 24n) & 1n;
  if (mayRaise) assert.match(stdout, /Max locked memory +unlimited +unlimited/);
  else assert.match(warnings.join(), /RLIMIT_MEMLOCK .*CAP_SYS_RESOURCE/);
});

container("oom score, sysctls of its namespaces, working directory made", async () => {
  const change = (spec: oci.Spec) =>
    withProcess({ oomScoreAdj: 500, cwd: "/deep/work" })(
      withLinux({ sysctl: { "net.ipv4.ip_forward": "1", "kernel.shmmax": "12345", "fs.mqueue.msg_max": "20" } })(spec),
    );
  assert.deepEqual(
    await lines(
      "cat /proc/self/oom_score_adj; pwd; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax /proc/sys/fs/mqueue/msg_max",
      change,
    ),
    ["500", "/deep/work", "1", "12345", "20"],
  );
  assert.notEqual((await readFile("/proc/sys/kernel/shmmax", "utf8")).trim(), "12345", "the host keeps its own");
});

container("nothing but the standard streams is open", async () => {
  // ls itself has the directory open.
  const out = await lines("ls /proc/self/fd");
  assert.deepEqual(out, ["0", "1", "2", "3"]);
  assert.deepEqual(await lines("ls /proc/1/fd; exit 0"), ["0", "1", "2"]);
});

container("a terminal: fds 0-2 and /dev/console are its pty, with the size that was asked for", async () => {
  const out = await lines("tty; stty size; ls -l /dev/console | head -c 1; echo; echo hi > /dev/tty", undefined, {
    terminal: true,
    consoleSize: { height: 33, width: 99 },
  });
  assert.deepEqual(
    out.map((line) => line.trimEnd()),
    ["/dev/pts/0", "33 99", "c", "hi"],
  );
});

container("a failing container is told by field, and leaves no process", async () => {
  const missing = (spec: oci.Spec) =>
    withMount(spec, { destination: "/v", type: "bind", source: "/no/such", options: ["bind"] });
  await assert.rejects(
    machine().run("true", missing),
    /^OrderError: clone mount tree \/no\/such \(mounts\[7\]\): ENOENT/,
  );
  await assert.rejects(
    machine().run("true", withLinux({ readonlyPaths: [], sysctl: { "net.ipv4.nope": "1" } })),
    /write "1" to \/proc\/sys\/net\/ipv4\/nope \(linux\.sysctl\["net\.ipv4\.nope"\]\): ENOENT/,
  );
  const running = await machine().create(withProcess({ args: ["nosuchprogram"] })(shellSpec("")));
  try {
    await assert.rejects(running.link.start(), /ENOENT: exec nosuchprogram: executable file not found in \$PATH/);
  } finally {
    await machine().end(running);
  }
});

container("the same plan is made from the same arguments", async () => {
  const context = machine().context();
  const spec = shellSpec("true");
  assert.deepEqual(planContainer(spec, context), planContainer(spec, context));
  await Promise.resolve();
});
