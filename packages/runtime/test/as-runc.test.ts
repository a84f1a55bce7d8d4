/** What runc's own suite asks of a runtime beside the specification: which mounts see which, modes, texts, working directories. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { oci } from "@berth/spec";
import { withMount } from "./support/containers.ts";
import { withLinux, withProcess } from "./support/machine.ts";
import { BERTH_RUNC, whyNoRuntime, Workshop } from "./support/runtimes.ts";

const skip = whyNoRuntime();
const MAPS = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
const userns = (spec: oci.Spec): oci.Spec =>
  withLinux({
    namespaces: [...(spec.linux?.namespaces ?? []), { type: "user" }],
    uidMappings: MAPS,
    gidMappings: MAPS,
  })(spec);

describe("as runc has it", skip === undefined ? {} : { skip }, () => {
  let shop: Workshop;
  before(() => {
    shop = new Workshop({ path: BERTH_RUNC });
  });
  after(() => {
    shop[Symbol.dispose]();
  });

  const writable = (change: (spec: oci.Spec) => oci.Spec) => (spec: oci.Spec) =>
    change({ ...spec, root: { ...(spec.root as oci.Root), readonly: false } });
  const output = (script: string, change?: (spec: oci.Spec) => oci.Spec): string => {
    const { status, stdout, stderr } = shop.run("run", "-b", shop.bundle(script, change), shop.id());
    assert.equal(status, 0, stderr);
    return stdout.trimEnd();
  };
  const failure = (change: (spec: oci.Spec) => oci.Spec): string => {
    const { status, stderr } = shop.run("run", "-b", shop.bundle("true", change), shop.id());
    assert.equal(status, 1);
    return stderr;
  };
  const rootfs = () => join(shop.directory, "rootfs");

  for (const [name, isUserns, isMapped] of [
    ["a source", false, false],
    ["a source in a user namespace", true, false],
    ["a mapped source", false, true],
    ["a mapped source in a user namespace", true, true],
  ] as const) {
    test(`${name} is what earlier mounts have made of the path, and a destination may be a path of the host`, () => {
      const source = join(shop.directory, `source-${String(isUserns)}-${String(isMapped)}`);
      for (const [directory, text] of [
        ["a/x", "lower"],
        ["b", "upper"],
      ] as const) {
        mkdirSync(join(source, directory), { recursive: true });
        writeFileSync(join(source, directory, "file"), text);
      }
      const bind = (from: string, destination: string, isInner = false): oci.Mount => ({
        destination,
        source: from,
        type: "bind",
        options: ["rbind", "rprivate", ...(isInner && isMapped ? ["ridmap"] : [])],
        ...(isInner && isMapped ? { uidMappings: MAPS, gidMappings: MAPS } : {}),
      });
      for (const directory of ["mnt", "final"]) mkdirSync(join(rootfs(), directory), { recursive: true });
      const change = (spec: oci.Spec): oci.Spec =>
        withMount(
          isUserns ? userns(spec) : spec,
          bind(join(source, "a"), "/mnt"),
          bind(join(source, "b"), "/mnt/x"),
          bind(join(rootfs(), "mnt"), join(rootfs(), "final"), true),
        );
      const lines = output("cat /final/x/file; echo; stat -c %u /final/x/file", change).split("\n");
      // Owned by the host's root: mapped it is the 100000 that the container's 0 is; else nobody's where there is a namespace.
      const owner = isMapped ? (isUserns ? "0" : "100000") : isUserns ? "65534" : "0";
      assert.deepEqual(lines, ["upper", owner]);
    });
  }

  test("a tmpfs has the mode of the directory that it covers, unless it is told one", () => {
    mkdirSync(join(rootfs(), "covered"), { recursive: true });
    chmodSync(join(rootfs(), "covered"), 0o710);
    const on = (...options: string[]) =>
      output("stat -c %a /covered; grep ' /covered ' /proc/self/mounts | cut -d' ' -f4", (spec) =>
        withMount(spec, { destination: "/covered", type: "tmpfs", source: "tmpfs", options }),
      );
    assert.match(on("nodev"), /^710\n.*\bmode=710\b/);
    assert.match(on("mode=1500"), /^1500\n/);
    const fresh = output("stat -c %a /made/here", (spec) =>
      withMount(writable((one) => one)(spec), { destination: "/made/here", type: "tmpfs", source: "tmpfs" }),
    );
    assert.equal(fresh, "1777");
  });

  test("a bind mount has the flags that were asked for, and in a user namespace those of its source too", () => {
    const source = join(shop.directory, "flags");
    mkdirSync(source);
    const mount = (...args: string[]) => assert.equal(spawnSync("mount", args).status, 0, args.join(" "));
    mount("-t", "tmpfs", "tmpfs", source);
    try {
      mount("--bind", "-o", "remount,ro,nodev,noexec,noatime", source);
      const bind =
        (...options: string[]) =>
        (spec: oci.Spec) =>
          withMount(spec, { destination: "/mnt", type: "bind", source, options: ["bind", ...options] });
      const flags = (change: (spec: oci.Spec) => oci.Spec) =>
        output("grep ' /mnt ' /proc/self/mounts | cut -d' ' -f4", change).split(",");
      const plain = ["ro", "nodev", "noexec", "noatime"];
      assert.deepEqual(flags(bind()).slice(0, 4), plain, "with no flag they stay");
      assert.deepEqual(flags(bind("nosuid")).slice(0, 3), ["rw", "nosuid", "noatime"], "the others go");
      assert.equal(flags(bind("ro", "relatime")).includes("noatime"), false);
      assert.deepEqual(flags((spec) => userns(bind("nosuid")(spec))).slice(0, 5), ["ro", "nosuid", ...plain.slice(1)]);
      const words = failure((spec) => userns(bind("rw")(spec)));
      assert.match(words, /error during container init: error mounting .* to rootfs at .*operation not permitted/);
    } finally {
      spawnSync("umount", [source]);
    }
  });

  for (const name of ["proc", "sys"]) {
    test(`an image whose /${name} is a link is told in runc's words`, () => {
      const own = join(shop.directory, `linked-${name}`);
      mkdirSync(own);
      symlinkSync("/elsewhere", join(own, name));
      const change = (spec: oci.Spec): oci.Spec => ({ ...spec, root: { path: own } });
      assert.match(failure(change), /must be mounted on ordinary directory/);
    });
  }

  test("a path that is masked twice is covered once", () => {
    const change = withLinux({
      maskedPaths: ["/proc/keys", "/proc//keys"],
      readonlyPaths: ["/proc/sys", "/proc/sys/"],
    });
    assert.equal(
      output("grep -c ' /proc/keys ' /proc/self/mounts; grep -c ' /proc/sys ' /proc/self/mounts", change),
      "1\n1",
    );
  });

  test("hooks run in the bundle, in the root file system, and with the process's HOME", () => {
    const at = (name: string) => ({
      path: "/bin/sh",
      args: ["sh", "-c", `pwd >${join(shop.directory, name)}`],
    });
    const hooks: oci.Hooks = {
      createRuntime: [at("runtime")],
      createContainer: [at("container")],
      poststart: [at("started")],
      startContainer: [{ path: "/bin/sh", args: ["sh", "-c", "echo $ONE $HOME >/home-of-hook"] }],
    };
    const bundle = shop.bundle(
      "cat /home-of-hook",
      writable((spec) => withProcess({ env: ["ONE=two", "PATH=/bin"] })({ ...spec, hooks })),
    );
    const { status, stdout, stderr } = shop.run("run", "-b", bundle, shop.id());
    rmSync(join(rootfs(), "home-of-hook"), { force: true });
    assert.deepEqual([status, stdout], [0, "two /\n"], stderr);
    const told = (name: string) => readFileSync(join(shop.directory, name), "utf8").trim();
    assert.deepEqual([told("runtime"), told("container"), told("started")], [bundle, realpathSync(rootfs()), bundle]);
  });

  test("a listener that nobody is at fails the creation at once", () => {
    const seccomp: oci.LinuxSeccomp = {
      defaultAction: "SCMP_ACT_ALLOW",
      listenerPath: join(shop.directory, "nobody.sock"),
      syscalls: [{ names: ["read", "close", "openat"], action: "SCMP_ACT_NOTIFY" }],
    };
    for (const noNewPrivileges of [true, false]) {
      const words = failure((spec) => withProcess({ noNewPrivileges })(withLinux({ seccomp })(spec)));
      assert.match(words, /ENOENT: connect .*nobody\.sock/);
    }
  });

  test("a limit of no process, or of one, is for the container's own", () => {
    for (const limit of [0, 1])
      assert.equal(output("echo alone", withLinux({ resources: { pids: { limit } } })), "alone");
  });

  test("an id that the configuration leaves out is 0", () => {
    const change = withProcess({ user: { uid: 7 } as oci.User });
    assert.equal(output("exec id -g", change), "0");
  });

  test("exec --cap raises the ambient set where the configuration has an inheritable one", () => {
    const id = shop.id();
    const capabilities: oci.LinuxCapabilities = {
      inheritable: ["CAP_CHOWN", "CAP_KILL"],
      permitted: ["CAP_CHOWN"],
      bounding: ["CAP_CHOWN", "CAP_KILL"],
      ambient: ["CAP_CHOWN"],
    };
    const bundle = shop.bundle("exec sleep 60", withProcess({ capabilities }));
    assert.equal(shop.quiet("run", "-d", "-b", bundle, id), 0);
    const ambient = (...flags: string[]) =>
      shop.run("exec", ...flags, id, "sh", "-c", "grep CapAmb /proc/self/status").stdout.trim();
    assert.equal(ambient(), "CapAmb:\t0000000000000001");
    assert.equal(ambient("--cap", "CAP_KILL"), "CapAmb:\t0000000000000021");
    const missing = shop.run("exec", "--cgroup", "nowhere", id, "true");
    assert.match(missing.stderr, / adding pid .*no such file or directory/);
  });

  test("who may override permissions may run what its mode does not give it", () => {
    const program = join(rootfs(), "only-root");
    writeFileSync(program, "#!/bin/sh\necho ran\n", { mode: 0o700 });
    const as = (names: readonly string[]) =>
      withProcess({
        args: ["/only-root"],
        user: { uid: 1000, gid: 100 },
        capabilities: { bounding: names, effective: names, permitted: names, inheritable: names, ambient: names },
      });
    assert.match(failure(as([])), /exec: \\"\/only-root\\": permission denied/);
    assert.equal(output("", as(["CAP_DAC_OVERRIDE"])), "ran");
  });

  test("--debug tells how far a container has come", () => {
    const created = shop.run("--debug", "run", "-b", shop.bundle("true"), shop.id());
    for (const text of [
      "nsexec container setup",
      "child process in init()",
      "init: closing the pipe to signal completion",
    ])
      assert.ok(created.stderr.includes(text), text);
    const id = shop.id();
    const change = withProcess({ execCPUAffinity: { initial: "0" } });
    assert.equal(shop.quiet("run", "-d", "-b", shop.bundle("exec sleep 60", change), id), 0);
    const { stderr } = shop.run("--debug", "exec", id, "true");
    for (const text of ["nsexec: affinity: 0x1", "setns_init: about to exec"]) assert.ok(stderr.includes(text), text);
  });

  test("memory policies that nobody could set are told in runc's words", () => {
    const words = (memoryPolicy: Partial<oci.LinuxMemoryPolicy>) =>
      failure(withLinux({ memoryPolicy: memoryPolicy as oci.LinuxMemoryPolicy }));
    assert.match(words({}), /invalid memory policy mode/);
    assert.match(words({ mode: "INTERLEAVE", nodes: "0" }), /invalid memory policy mode/);
    const flags = ["MPOL_F_BAD"] as unknown as oci.LinuxMemoryPolicy["flags"];
    assert.match(words({ mode: "MPOL_PREFERRED", nodes: "0", flags }), /invalid memory policy flag/);
    assert.match(words({ mode: "MPOL_BIND", nodes: "0-9876543210" }), /invalid memory policy nodes/);
    assert.match(words({ mode: "MPOL_DEFAULT", nodes: "0-7" }), /mode requires 0 nodes but got 8/);
    assert.match(words({ mode: "MPOL_BIND" }), /at least one node/);
  });

  test("a deadline and a choice of CPUs do not go together", () => {
    const scheduler: oci.Scheduler = {
      policy: "SCHED_DEADLINE",
      runtime: 42_000,
      deadline: 1_000_000,
      period: 1_000_000,
    };
    if (!existsSync("/sys/fs/cgroup/cpuset") && !existsSync("/sys/fs/cgroup/cgroup.controllers")) return;
    const words = failure((spec) => withProcess({ scheduler })(withLinux({ resources: { cpu: { cpus: "0" } } })(spec)));
    assert.match(words, /process scheduler can't be used together with AllowedCPUs/);
  });
});
