/**
 * berth-runc as an ordinary user, one that nobody else is: no entry of /etc/passwd, no privilege. Where subordinate ids are needed the
 * files that give them are the test's own, over /etc in a mount namespace of its own.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { oci } from "@berth/spec";
import { withLinux, withProcess } from "./support/machine.ts";
import { BERTH_RUNC, whyNoRuntime, type Output } from "./support/runtimes.ts";

const USER = 100_000_000 + (process.pid % 1_000_000);
const SUBORDINATE = 1_500_000_000;
const AS_USER = ["setpriv", "--reuid", String(USER), "--regid", String(USER), "--clear-groups"];
const APPLETS = "sh cat id ls sleep stat tty echo grep true touch readlink".split(" ");
const LIMIT_MS = 60_000;

const skip = whyNoRuntime() ?? whyNotAsUser();

/** The checkout may lie where only root gets to. */
function whyNotAsUser(): string | undefined {
  const { status, error, stderr } = spawnSync(AS_USER[0] ?? "", [...AS_USER.slice(1), BERTH_RUNC, "--version"], {
    encoding: "utf8",
  });
  if (error !== undefined) return "needs setpriv";
  if (status !== 0) return `an ordinary user cannot run ${BERTH_RUNC} here: ${stderr}`;
  const made = spawnSync(AS_USER[0] ?? "", [...AS_USER.slice(1), "unshare", "-U", "true"]);
  return made.status === 0 ? undefined : "ordinary users may not make user namespaces here";
}

describe("an ordinary user", skip === undefined ? {} : { skip }, () => {
  let home: string;
  let next = 0;
  before(() => {
    home = mkdtempSync(join(tmpdir(), "berth-rootless-"));
    mkdirSync(join(home, "rootfs", "bin"), { recursive: true });
    cpSync("/bin/busybox", join(home, "rootfs", "bin", "busybox"));
    for (const applet of APPLETS) symlinkSync("busybox", join(home, "rootfs", "bin", applet));
    mkdirSync(join(home, "run"));
    for (const path of ["", "rootfs", "rootfs/bin", "run"]) chownSync(join(home, path), USER, USER);
    chmodSync(home, 0o755);
  });
  after(() => {
    rmSync(home, { recursive: true, force: true });
  });

  const environment = () => ({ PATH: process.env["PATH"], HOME: home, XDG_RUNTIME_DIR: join(home, "run") });
  const as = (wrap: readonly string[], args: readonly string[], stdio: "pipe" | "ignore" = "pipe"): Output => {
    const [program = "", ...rest] = [...wrap, BERTH_RUNC, ...args];
    const { status, stdout, stderr, error } = spawnSync(program, rest, {
      env: environment(),
      cwd: home,
      encoding: "utf8",
      timeout: LIMIT_MS,
      stdio: ["ignore", stdio, stdio],
    });
    if (error !== undefined) throw error;
    return { status: status ?? -1, stdout, stderr };
  };
  const run = (...args: readonly string[]) => as(AS_USER, args);
  const bundle = (script: string, change: (spec: oci.Spec) => oci.Spec = (spec) => spec): string => {
    const directory = join(home, `bundle${next++}`);
    mkdirSync(directory);
    chownSync(directory, USER, USER);
    assert.equal(run("spec", "--rootless", "--bundle", directory).status, 0);
    const file = join(directory, "config.json");
    const spec = JSON.parse(readFileSync(file, "utf8")) as oci.Spec;
    const plain: oci.Spec = { ...spec, root: { path: join(home, "rootfs") } };
    writeFileSync(file, JSON.stringify(change(withProcess({ terminal: false, args: ["sh", "-c", script] })(plain))));
    return directory;
  };
  const id = () => `rootless-${process.pid}-${next++}`;
  const output = (script: string, change?: (spec: oci.Spec) => oci.Spec, wrap: readonly string[] = AS_USER): string => {
    const { status, stdout, stderr } = as(wrap, ["run", "-b", bundle(script, change), id()]);
    assert.equal(status, 0, stderr);
    return stdout.trimEnd();
  };
  const failure = (change: (spec: oci.Spec) => oci.Spec, ...global: readonly string[]): string => {
    const { status, stderr } = run(...global, "run", "-b", bundle("true", change), id());
    assert.equal(status, 1);
    return stderr;
  };

  const has = (...programs: readonly string[]) =>
    programs.every((program) => spawnSync("sh", ["-c", `command -v ${program}`]).status === 0);

  test("runs the example of `spec --rootless`: its root, one id, the host's devices, its own state directory", () => {
    const lines = output(
      "id -u; cat /proc/self/uid_map; cat /proc/self/setgroups; grep -c ' /dev/null devtmpfs' /proc/self/mounts; touch /dev/shm/made; stat -c %t:%T /dev/zero",
    );
    const [uid = "", map = "", groups, bound, zero] = lines.split("\n");
    assert.deepEqual(
      [uid, map.trim().split(/\s+/), groups, bound, zero],
      ["0", ["0", String(USER), "1"], "deny", "1", "1:5"],
    );
    const states = statSync(join(home, "run", "runc"));
    assert.deepEqual([states.uid, states.mode & 0o7777], [USER, 0o1700]);
    assert.deepEqual(readdirSync(join(home, "run", "runc")), [], "nothing is left");
  });

  test("a container's whole life", async () => {
    const name = id();
    const at = bundle("exec sleep 60");
    const quiet = (...args: readonly string[]) => as(AS_USER, args, "ignore").status;
    assert.equal(quiet("create", "-b", at, name), 0);
    const state = () => JSON.parse(run("state", name).stdout) as { status: string; pid: number; owner: string };
    assert.deepEqual([state().status, state().owner], ["created", `#${USER}`]);
    assert.equal(run("exec", name, "id", "-u").stdout, "0\n", "before the start too");
    assert.equal(quiet("start", name), 0);
    assert.equal(run("exec", name, "id", "-u").stdout, "0\n");
    assert.match(run("exec", "-t", name, "tty").stdout, /^\/dev\/pts\/\d+\r?\n$/);
    const groups = ["uid", "gid"].map((kind) => readFileSync(`/proc/${state().pid}/${kind}_map`, "utf8").trim());
    for (const map of groups) assert.match(map, new RegExp(`^0 +${USER} +1$`));
    assert.match(run("list").stdout, new RegExp(`${name} +\\d+ +running +${at} .*#${USER}`));
    assert.equal(run("update", "--pids-limit", "9", name).status, 1, "there is no cgroup to limit");
    assert.equal(quiet("kill", name, "KILL"), 0);
    const deadline = Date.now() + 60_000;
    while (state().status !== "stopped" && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 10));
    assert.equal(quiet("delete", name), 0);
    assert.equal(run("state", name).status, 1);
  });

  test("hooks are the user's own processes; a poststop hook too", () => {
    const hook = (file: string) => ({ path: "/bin/sh", args: ["sh", "-c", `id -u >${join(home, "run", file)}`] });
    const hooks: oci.Hooks = {
      createRuntime: [hook("before")],
      createContainer: [hook("inside")],
      poststop: [hook("after")],
    };
    output("true", (spec) => ({ ...spec, hooks }));
    const said = (file: string) => readFileSync(join(home, "run", file), "utf8").trim();
    assert.deepEqual([said("before"), said("inside"), said("after")], [String(USER), "0", String(USER)]);
  });

  test("cgroups that may not be written are done without; limits and cgroups asked for by name are not", () => {
    assert.match(
      failure(withLinux({ resources: { memory: { limit: 1 << 26 } } })),
      /cannot set memory limit: container could not join or create cgroup/,
    );
    assert.match(
      failure(withLinux({ cgroupsPath: "/rootless-by-name" })),
      /unable to apply cgroup configuration: mkdir .*rootless-by-name.*permission denied/,
    );
    assert.match(
      failure((spec) => spec, "--rootless", "false"),
      /mkdir .*permission denied/,
    );
    assert.match(
      failure((spec) => spec, "--rootless", "perhaps"),
      /invalid value for --rootless/,
    );
  });

  test("a cgroup mount shows the caller's cgroups where the container has none of its own", (t) => {
    const v1 = readFileSync("/proc/self/mounts", "utf8")
      .split("\n")
      .some((line) => line.includes(" /sys/fs/cgroup/pids cgroup "));
    if (!v1) return t.skip("no v1 pids hierarchy");
    const mount = { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro", "nosuid"] };
    const lines = output(
      "cat /sys/fs/cgroup/pids/tasks | grep -c .; grep -c ' /sys/fs/cgroup/pids cgroup ro' /proc/self/mounts",
      (spec) => ({
        ...spec,
        mounts: [...(spec.mounts ?? []).filter(({ destination }) => destination !== "/sys/fs/cgroup"), mount],
      }),
    );
    const [processes, mounted] = lines.split("\n").map(Number);
    assert.ok((processes ?? 0) > 0);
    assert.equal(mounted, 1);
  });

  test("in a cgroup that was given to the user the container has one of its own, with limits", (t) => {
    const mounts = readFileSync("/proc/self/mounts", "utf8")
      .split("\n")
      .map((line) => line.split(" "));
    const v1 = mounts.filter(([, , type]) => type === "cgroup").map(([, target = ""]) => target);
    if (v1.length === 0) return t.skip("no cgroup v1: delegation on v2 takes a cgroup without processes above");
    const own = v1.map((target) => join(target, `berth-rootless-${process.pid}`));
    const files = ["cgroup.procs", "tasks"];
    for (const directory of own) {
      mkdirSync(directory);
      if (directory.includes("cpuset"))
        for (const file of ["cpuset.cpus", "cpuset.mems"])
          writeFileSync(join(directory, file), readFileSync(join(directory, "..", file)));
      for (const path of ["", ...files]) chownSync(join(directory, path), USER, USER);
    }
    try {
      const enter = ["sh", "-c", `for d in ${own.join(" ")}; do echo 0 >$d/tasks; done; exec "$@"`, "sh", ...AS_USER];
      const limited = withLinux({ resources: { pids: { limit: 17 } } });
      const lines = output("cat /proc/self/cgroup", limited, enter).split("\n");
      assert.ok(
        lines.some((line) => new RegExp(`:pids:/berth-rootless-${process.pid}/rootless-`).test(line)),
        lines.join(),
      );
    } finally {
      for (const directory of own) spawnSync("rmdir", [directory]);
    }
    assert.deepEqual(
      own.filter((directory) => spawnSync("test", ["-e", directory]).status === 0),
      [],
    );
  });

  test("a container that nobody could clear away is warned of; /dev/ptmx is never the host's", () => {
    const shared = (spec: oci.Spec): oci.Spec => ({
      ...withLinux({
        namespaces: (spec.linux?.namespaces ?? []).filter(({ type }) => type !== "pid"),
        devices: [{ path: "/dev/ptmx", type: "c", major: 5, minor: 2 }],
      })(spec),
      mounts: (spec.mounts ?? []).map((mount) =>
        mount.type === "proc" ? { destination: "/proc", type: "none", source: "/proc", options: ["rbind"] } : mount,
      ),
    });
    const { status, stdout, stderr } = run("run", "-b", bundle("readlink /dev/ptmx", shared), id());
    assert.deepEqual([status, stdout], [0, "pts/ptmx\n"], stderr);
    assert.match(stderr, /Such configuration is strongly discouraged/);
    const name = id();
    assert.equal(as(AS_USER, ["run", "-d", "-b", bundle("exec sleep 60", shared), name], "ignore").status, 0);
    assert.equal(run("kill", name, "KILL").status, 0);
    assert.equal(run("delete", "--force", name).status, 0);
  });

  test("seccomp's listener is handed over", async (t) => {
    if (!has("python3")) return t.skip("needs python3 for the listener");
    const path = join(home, "listener.sock");
    const script = `import os, socket
server = socket.socket(socket.AF_UNIX); server.bind(${JSON.stringify(path)}); server.listen(4); os.chmod(${JSON.stringify(path)}, 0o777)
print("ready", flush=True)
for _ in range(2):
    connection, _ = server.accept()
    print(len(socket.recv_fds(connection, 65536, 4)[1]), flush=True)`;
    const agent = spawn("python3", ["-c", script], { stdio: ["ignore", "pipe", "inherit"] });
    let said = "";
    agent.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
    try {
      await once(agent.stdout, "data");
      const seccomp: oci.LinuxSeccomp = {
        defaultAction: "SCMP_ACT_ALLOW",
        listenerPath: path,
        syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_NOTIFY" }],
      };
      for (const noNewPrivileges of [true, false])
        output("true", (spec) => withProcess({ noNewPrivileges })(withLinux({ seccomp })(spec)));
      await once(agent, "exit");
      assert.equal(said, "ready\n1\n1\n");
    } finally {
      agent.kill("SIGKILL");
    }
  });

  test("what an ordinary user cannot have is refused by name", () => {
    const { linux } = JSON.parse(readFileSync(join(bundle("true"), "config.json"), "utf8")) as oci.Spec;
    const plain = (linux?.namespaces ?? []).filter(({ type }) => type !== "user");
    assert.match(
      failure(withLinux({ namespaces: plain, uidMappings: undefined, gidMappings: undefined })),
      /rootless container requires user namespaces/,
    );
    assert.match(
      failure(withProcess({ user: { uid: 0, gid: 0, additionalGids: [5] } })),
      /cannot set any additional groups in a rootless container/,
    );
    const devpts = { destination: "/pts", type: "devpts", source: "devpts", options: ["gid=5"] };
    assert.match(
      failure((spec) => ({ ...spec, mounts: [...(spec.mounts ?? []), devpts] })),
      /cannot specify gid=5 mount options for unmapped gid in rootless containers/,
    );
    const more = withLinux({
      uidMappings: [
        { containerID: 0, hostID: USER, size: 1 },
        { containerID: 1, hostID: SUBORDINATE, size: 9 },
      ],
    });
    const without = { ...environment(), PATH: join(home, "rootfs", "bin") };
    const [program, ...rest] = [...AS_USER.map((word) => (word === "setpriv" ? "/usr/bin/setpriv" : word)), BERTH_RUNC];
    const { stderr } = spawnSync(program, [...rest, "run", "-b", bundle("true", more), id()], {
      env: without,
      encoding: "utf8",
    });
    assert.match(stderr, /need newuidmap and newgidmap, which are not in \$PATH/);
  });

  /** The user with an account and subordinate ids, in a mount namespace where /etc says so. */
  const withSubordinates = (): string[] => {
    const etc = join(home, `etc${next++}`);
    mkdirSync(etc);
    const lines = {
      passwd: `u${USER}:x:${USER}:${USER}::${home}:/bin/sh`,
      subuid: `${USER}:${SUBORDINATE}:100`,
      subgid: `${USER}:${SUBORDINATE}:100`,
    };
    for (const [file, line] of Object.entries(lines)) writeFileSync(join(etc, file), `${line}\n`);
    const over = `mount -t overlay -o lowerdir=${etc}:/etc overlay /etc && exec "$@"`;
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", over, "sh", ...AS_USER];
  };

  test("subordinate ids, by newuidmap and newgidmap", (t) => {
    if (!has("newuidmap", "newgidmap")) return t.skip("needs uidmap");
    const wrap = withSubordinates();
    const maps = (size: number) => {
      const mappings = [
        { containerID: 0, hostID: USER, size: 1 },
        { containerID: 1, hostID: SUBORDINATE, size },
      ];
      return withLinux({ uidMappings: mappings, gidMappings: mappings });
    };
    const change = (spec: oci.Spec) => withProcess({ user: { uid: 7, gid: 8 } })(maps(100)(spec));
    const [ids, ...map] = output("id -u; cat /proc/self/uid_map", change, wrap).split("\n");
    assert.deepEqual(
      [ids, map.map((line) => line.trim().split(/\s+/))],
      [
        "7",
        [
          ["0", String(USER), "1"],
          ["1", String(SUBORDINATE), "100"],
        ],
      ],
    );
    const tooMany = as(wrap, ["run", "-b", bundle("true", maps(101)), id()]);
    assert.match(tooMany.stderr, /newuidmap: uid range \[1-102\) -> .* not allowed/);
  });

  test("podman, which is the root of a user namespace of its own", (t) => {
    if (!has("podman", "conmon", "newuidmap", "newgidmap")) return t.skip("needs podman and uidmap");
    const storage = [
      "--root",
      join(home, "storage"),
      "--runroot",
      join(home, "runroot"),
      "--tmpdir",
      join(home, "podman"),
    ];
    const driver = ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs"];
    const wrap = withSubordinates();
    const podman = (...args: readonly string[]) => {
      const [program = "", ...rest] = [...wrap, "podman", ...storage, ...driver, "--runtime", BERTH_RUNC, ...args];
      return spawnSync(program, rest, { env: environment(), cwd: home, encoding: "utf8", timeout: LIMIT_MS });
    };
    chownSync(home, USER, USER);
    try {
      assert.equal(
        spawnSync("tar", ["-C", join(home, "rootfs"), "--owner=0", "--group=0", "-cf", join(home, "image.tar"), "."])
          .status,
        0,
      );
      const imported = podman("import", join(home, "image.tar"), "bb:1");
      assert.equal(imported.status, 0, imported.stderr);
      const first = podman("run", "--rm", "--network", "none", "bb:1", "sh", "-c", "cat /proc/self/uid_map; exit 5");
      assert.equal(first.status, 5, first.stderr);
      assert.match(first.stdout, new RegExp(`^ +0 +${USER} +1\\n +1 +${SUBORDINATE} +100\\n$`));
      assert.equal(podman("run", "-d", "--network", "none", "--name", "long", "bb:1", "sleep", "100").status, 0);
      const inside = podman("exec", "long", "sh", "-c", "id -u; exit 3");
      assert.deepEqual([inside.status, inside.stdout], [3, "0\n"], inside.stderr);
      assert.equal(podman("kill", "long").status, 0);
      assert.equal(podman("rm", "-f", "long").status, 0);
    } finally {
      podman("rm", "-fa");
      podman("unshare", "rm", "-rf", join(home, "storage"), join(home, "runroot"));
      // What keeps its namespaces from one command to the next.
      const pause = join(home, "podman", "pause.pid");
      if (existsSync(pause)) process.kill(Number(readFileSync(pause, "utf8")), "SIGKILL");
    }
  });

  test("the root of a user namespace, without one more: nodes are bound, its cgroups are done without", () => {
    const plain = (spec: oci.Spec): oci.Spec =>
      withLinux({
        namespaces: (spec.linux?.namespaces ?? []).filter(({ type }) => type !== "user"),
        uidMappings: undefined,
        gidMappings: undefined,
      })(withProcess({ rlimits: [{ type: "RLIMIT_NOFILE", soft: 1 << 30, hard: 1 << 30 }] })(spec));
    const inside = [...AS_USER, "unshare", "-Urm"];
    const lines = output(
      "id -u; stat -c %t:%T /dev/null; grep -c ' /dev/null devtmpfs' /proc/self/mounts",
      plain,
      inside,
    );
    assert.equal(lines, "0\n1:3\n1");
  });

  test("root without --rootless has its cgroups, with it too where they can be written", () => {
    for (const flag of ["true", "auto", "false"]) {
      const { status, stdout, stderr } = as(
        [],
        [
          "--rootless",
          flag,
          "--root",
          join(home, "states"),
          "run",
          "-b",
          bundle(
            "cat /proc/self/cgroup",
            withLinux({
              namespaces: [{ type: "mount" }, { type: "pid" }, { type: "uts" }],
              uidMappings: undefined,
              gidMappings: undefined,
            }),
          ),
          `as-root-${id()}`,
        ],
      );
      assert.equal(status, 0, stderr);
      assert.match(stdout, /as-root-rootless-/, flag);
    }
  });
});
