/** Each flag of checkpoint and restore with a container that needs it, by a CRIU that works (a guest: tests/guest). */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
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
import { after, before, beforeEach, describe, test } from "node:test";
import type { oci } from "@berth/spec";
import {
  attended,
  CheckpointShop,
  COUNTER,
  criuProblem,
  freePort,
  sockets,
  until,
  withHostNetwork,
  writable,
  type Attended,
} from "./support/checkpoints.ts";
import { BERTH_RUNC, whyNoRuntime } from "./support/runtimes.ts";

const skip = whyNoRuntime() ?? criuProblem();

describe("flags of checkpoint and restore", skip === undefined ? {} : { skip }, () => {
  let shop: CheckpointShop;
  let id: string;
  let images: string;
  before(() => {
    shop = new CheckpointShop();
    for (const name of ["lib", "lib64"]) symlinkSync(`usr/${name}`, join(shop.directory, "rootfs", name));
  });
  beforeEach(() => {
    id = shop.id();
    images = join(shop.directory, `images-${id}`);
  });
  after(() => {
    shop[Symbol.dispose]();
  });

  const file = (name: string): string => join(shop.directory, "rootfs", name);
  const number = (name: string): number => (existsSync(file(name)) ? Number(readFileSync(file(name), "utf8")) : 0);
  const start = (bundle: string): void => {
    shop.detached("run", "-d", "-b", bundle, id);
  };
  const checkpoint = (...flags: string[]): void => {
    shop.must("checkpoint", "--image-path", images, ...flags, id);
  };
  const restore = (bundle: string, ...flags: string[]): void => {
    shop.detached("restore", "-d", "-b", bundle, "--image-path", images, ...flags, id);
  };
  const end = (): void => {
    shop.must("delete", "-f", id);
    shop.nothingLeft(id);
  };
  const countsOn = async (): Promise<void> => {
    const at = shop.count();
    await until(() => shop.count() > at + 2);
  };

  test("--file-locks", async () => {
    const bundle = shop.bundle(
      "",
      perl(`open F, ">", "/locked"; flock F, 2; open R, ">", "/held"; close R; sleep 1 while 1`),
    );
    const held = (): boolean =>
      spawnSync("perl", ["-e", `open F, ">", $ARGV[0]; exit(flock(F, 6) ? 1 : 0)`, file("locked")]).status === 0;
    start(bundle);
    await until(() => existsSync(file("held")));
    assert.ok(held());
    shop.refused(/--file-locks/, "checkpoint", "--image-path", images, id);
    assert.equal(shop.status(id), "running");
    checkpoint("--file-locks");
    assert.ok(!held());
    restore(bundle, "--file-locks");
    assert.ok(held());
    end();
    assert.ok(!held());
  });

  test("--link-remap", async () => {
    const bundle = shop.bundle(
      `exec 5>/one; ln /one /other; rm /one; while :; do echo x >&5; sleep 0.2; done`,
      writable,
    );
    start(bundle);
    await until(() => existsSync(file("other")) && !existsSync(file("one")));
    shop.refused(/link-remap/, "checkpoint", "--image-path", images, id);
    checkpoint("--link-remap");
    const { size } = statSync(file("other"));
    restore(bundle);
    await until(() => statSync(file("other")).size > size);
    assert.deepEqual(
      readdirSync(file("")).filter((name) => name.startsWith("link_remap")),
      [],
    );
    end();
  });

  test("--ext-unix-sk", async () => {
    const outside = mkdtempSync(join(tmpdir(), "berth-socket-"));
    const receiver = attended(false, ["perl", "-MSocket", "-e", RECEIVER, join(outside, "socket")]);
    try {
      await receiver.answer("", "ready");
      const shared: oci.Mount = { destination: outside, source: outside, options: ["bind"] };
      // CRIU knows the sockets of the container's network namespace: also of the other end's, where it is the same.
      const bundle = shop.bundle("", (spec) => {
        const sending = withHostNetwork(perl(SENDER.replace("PATH", join(outside, "socket")))(spec));
        return { ...sending, mounts: [...(sending.mounts ?? []), shared] };
      });
      start(bundle);
      await receiver.answer("", "hello");
      shop.refused(/ext-unix-sk/, "checkpoint", "--image-path", images, id);
      checkpoint("--ext-unix-sk");
      restore(bundle, "--ext-unix-sk");
      await receiver.answer("", "hello");
      end();
    } finally {
      receiver.child.kill("SIGKILL");
      rmSync(outside, { recursive: true });
    }
  });

  test("--tcp-skip-in-flight", async () => {
    const port = await freePort();
    const bundle = shop.bundle(`exec nc -l -p ${port} -e cat`, (spec) => withHostNetwork(writable(spec)));
    const peers: Attended[] = [];
    const connect = (): Attended => {
      const peer = attended(false, ["busybox", "nc", "127.0.0.1", String(port)]);
      peers.push(peer);
      return peer;
    };
    try {
      start(bundle);
      await until(() => sockets(port, "LISTEN") > 0);
      shop.must("kill", id, "STOP");
      // The kernel takes the connection for who listens; the container's process does not.
      connect();
      await until(() => sockets(port, "ESTABLISHED") > 0);
      shop.refused(/in-flight/i, "checkpoint", "--tcp-established", "--image-path", images, id);
      checkpoint("--tcp-established", "--tcp-skip-in-flight");
      peers[0]?.child.kill("SIGKILL");
      restore(bundle, "--tcp-established");
      shop.must("kill", id, "CONT");
      await connect().answer("one\n", "one");
      end();
    } finally {
      for (const { child } of peers) child.kill("SIGKILL");
    }
  });

  test("a configuration of CRIU's that the container names: connections are closed", async () => {
    const port = await freePort();
    const config = join(shop.directory, "criu.conf");
    writeFileSync(config, "tcp-close\n");
    const bundle = shop.bundle(`exec nc -l -p ${port} -e cat`, (spec) => ({
      ...withHostNetwork(writable(spec)),
      annotations: { "org.criu.config": config },
    }));
    start(bundle);
    await until(() => sockets(port, "LISTEN") > 0);
    const peer = attended(false, ["busybox", "nc", "127.0.0.1", String(port)]);
    try {
      await peer.answer("one\n", "one");
      checkpoint("--tcp-established");
      restore(bundle);
      await until(() => shop.status(id) === "stopped");
      end();
    } finally {
      peer.child.kill("SIGKILL");
    }
  });

  test("--page-server", async () => {
    const bundle = shop.bundle(COUNTER, writable);
    start(bundle);
    await until(() => shop.count() > 2);
    const port = await freePort();
    mkdirSync(images);
    const server = criu("page-server", "--images-dir", images, "--port", String(port));
    await until(() => sockets(port, "LISTEN") > 0);
    checkpoint("--page-server", `127.0.0.1:${port}`);
    assert.equal(await server.ended, 0, server.said());
    assert.match(readFileSync(join(images, "dump.log"), "utf8"), /Connect(ing|ed) to server/);
    restore(bundle);
    await countsOn();
    end();
  });

  test("--lazy-pages with --status-fd: memory comes when it is touched, from the process that has it", async () => {
    const bundle = shop.bundle("", perl(MEMORY));
    start(bundle);
    await until(() => number("sum") > 0);
    const port = await freePort();
    const flags = [
      "--lazy-pages",
      "--page-server",
      `127.0.0.1:${port}`,
      "--status-fd",
      "3",
      "--manage-cgroups-mode",
      "ignore",
    ];
    // CRIU opens what it is told of anew: a FIFO, as Node's own pipes are sockets.
    const fifo = join(shop.directory, "status");
    assert.equal(spawnSync("mkfifo", [fifo]).status, 0);
    const reader = spawn("cat", [fifo], { stdio: ["ignore", "pipe", "inherit"] });
    const dump = spawn(
      "sh",
      [
        "-c",
        `exec "$@" 3>${fifo}`,
        "sh",
        BERTH_RUNC,
        "--root",
        shop.root,
        "checkpoint",
        ...flags,
        "--image-path",
        images,
        id,
      ],
      { stdio: ["ignore", "ignore", "inherit"] },
    );
    const dumped = once(dump, "exit");
    const tooEarly = dumped.then(([code]): never => assert.fail(`checkpoint ended with ${code} before it was ready`));
    const [ready] = (await Promise.race([once(reader.stdout, "data"), tooEarly])) as [Buffer];
    tooEarly.catch(() => undefined);
    assert.deepEqual([...ready], [0]);
    assert.ok(existsSync(join(images, "inventory.img")));
    const pages = criu(
      "lazy-pages",
      "--page-server",
      "--address",
      "127.0.0.1",
      "--port",
      String(port),
      "--images-dir",
      images,
    );
    const copy = shop.id();
    const before = number("sum");
    shop.detached(
      "restore",
      "-d",
      "-b",
      bundle,
      "--image-path",
      images,
      "--lazy-pages",
      "--manage-cgroups-mode",
      "ignore",
      copy,
    );
    assert.deepEqual(await dumped, [0, null]);
    assert.equal(await pages.ended, 0, pages.said());
    await until(() => number("sum") > before + 1);
    assert.equal(readFileSync(file("wrong"), "utf8"), "");
    shop.must("delete", "-f", copy);
    end();
  });

  test("--auto-dedup: what a later dump has is taken out of the earlier one", async () => {
    const bundle = shop.bundle("", perl(MEMORY));
    start(bundle);
    await until(() => number("sum") > 0);
    const parent = `${images}-parent`;
    shop.must("checkpoint", "--pre-dump", "--image-path", parent, id);
    const blocks = (directory: string): number =>
      readdirSync(directory)
        .filter((name) => /^pages-\d+\.img$/.test(name))
        .reduce((sum, name) => sum + statSync(join(directory, name)).blocks, 0);
    const whole = blocks(parent);
    const at = number("sum");
    await until(() => number("sum") > at + 1);
    checkpoint("--auto-dedup", "--parent-path", `../${parent.slice(parent.lastIndexOf("/") + 1)}`);
    assert.ok(blocks(parent) < whole / 2, `${blocks(parent)} of ${whole} blocks`);
    const dumped = blocks(images);
    restore(bundle, "--auto-dedup");
    assert.ok(blocks(images) < dumped, `${blocks(images)} of ${dumped} blocks`);
    const restoredAt = number("sum");
    await until(() => number("sum") > restoredAt + 1);
    assert.equal(readFileSync(file("wrong"), "utf8"), "");
    end();
  });

  for (const mode of ["soft", "full", "ignore"])
    test(`--manage-cgroups-mode ${mode}, with --empty-ns, --no-pivot and --no-subreaper`, async () => {
      const bundle = shop.bundle(COUNTER, (spec) => ({
        ...writable(spec),
        linux: { ...spec.linux, resources: { ...spec.linux?.resources, pids: { limit: 77 } } },
      }));
      start(bundle);
      await until(() => shop.count() > 2);
      checkpoint("--manage-cgroups-mode", mode, "--empty-ns", "network");
      restore(bundle, "--manage-cgroups-mode", mode, "--empty-ns", "network", "--no-pivot", "--no-subreaper");
      await countsOn();
      const limits = spawnSync("find", ["/sys/fs/cgroup", "-path", `*/${id}/pids.max`], { encoding: "utf8" });
      assert.equal(readFileSync(limits.stdout.trim(), "utf8"), "77\n");
      end();
    });

  test("--manage-cgroups-mode ignore: restored into another cgroup", async () => {
    const [one, two] = [`${id}-one`, `${id}-two`];
    const inCgroup = (name: string): string =>
      shop.bundle(COUNTER, (spec) => ({ ...writable(spec), linux: { ...spec.linux, cgroupsPath: `/${name}` } }));
    const found = (name: string): string[] =>
      spawnSync("find", ["/sys/fs/cgroup", "-name", name], { encoding: "utf8" }).stdout.split("\n").filter(Boolean);
    start(inCgroup(one));
    await until(() => shop.count() > 2);
    assert.ok(found(one).length > 0);
    checkpoint("--manage-cgroups-mode", "ignore");
    assert.deepEqual(found(one), []);
    restore(inCgroup(two), "--manage-cgroups-mode", "ignore");
    const { pid } = JSON.parse(shop.must("state", id).stdout) as { pid: number };
    assert.match(readFileSync(`/proc/${pid}/cgroup`, "utf8"), new RegExp(`/${two}$`, "m"));
    await countsOn();
    end();
    assert.deepEqual([...found(one), ...found(two)], []);
  });

  test("--manage-cgroups-mode strict: the cgroup that a restore is given is there already, which is what it refuses", async () => {
    const bundle = shop.bundle(COUNTER, writable);
    start(bundle);
    await until(() => shop.count() > 2);
    checkpoint("--manage-cgroups-mode", "strict");
    shop.refused(
      /criu failed: type RESTORE/,
      "restore",
      "-d",
      "-b",
      bundle,
      "--image-path",
      images,
      "--manage-cgroups-mode",
      "strict",
      id,
    );
    shop.nothingLeft(id);
  });

  test("--lsm-profile", { skip: appArmorProblem() ?? false }, async () => {
    const profile = (name: string): string =>
      `profile ${name} flags=(attach_disconnected) { file, capability, mount, umount, signal, ptrace, network, unix, }`;
    const parser = (flag: string): void => {
      for (const name of ["berth-first", "berth-second"])
        assert.equal(spawnSync("apparmor_parser", [flag], { input: profile(name) }).status, 0);
    };
    parser("-r");
    try {
      const bundle = shop.bundle(COUNTER, (spec) => {
        const { process: own, ...rest } = writable(spec);
        return { ...rest, ...(own && { process: { ...own, apparmorProfile: "berth-first" } }) };
      });
      const label = (): string => {
        const { pid } = JSON.parse(shop.must("state", id).stdout) as { pid: number };
        return readFileSync(`/proc/${pid}/attr/current`, "utf8").trim();
      };
      start(bundle);
      assert.equal(label(), "berth-first (enforce)");
      checkpoint();
      restore(bundle, "--lsm-profile", "apparmor:berth-second");
      assert.equal(label(), "berth-second (enforce)");
      await countsOn();
      end();
    } finally {
      parser("-R");
    }
  });
});

/** A container whose program is a Perl script: the machine's Perl, in a /usr of its own. */
function perl(script: string): (spec: oci.Spec) => oci.Spec {
  return (spec) => {
    const { process: own, ...rest } = writable(spec);
    const usr: oci.Mount = { destination: "/usr", source: "/usr", options: ["bind", "ro"] };
    return {
      ...rest,
      mounts: [...(rest.mounts ?? []), usr],
      ...(own && { process: { ...own, args: ["/usr/bin/perl", "-MSocket", "-e", script] } }),
    };
  };
}

/** Prints each datagram that comes to its socket. */
const RECEIVER = `$| = 1; socket S, PF_UNIX, SOCK_DGRAM, 0; bind S, sockaddr_un($ARGV[0]) or die $!; print "ready"; while (defined recv S, $m, 99, 0) { print $m }`;
const SENDER = `socket S, PF_UNIX, SOCK_DGRAM, 0; connect S, sockaddr_un("PATH") or die $!; while (1) { send S, "hello", 0; select undef, undef, undef, 0.2 }`;
/** 4 MB that are written and read again and again: /sum counts how often, /wrong is what was not as it had been written. */
const MEMORY = `open W, ">", "/wrong"; W->autoflush(1); @m = ("") x 1024; while (1) { $n++; $_ = chr(65 + $n % 26) x 4096 for @m; for (@m) { print W "$n" if $_ ne chr(65 + $n % 26) x 4096 } open S, ">", "/.sum"; print S $n; close S; rename "/.sum", "/sum"; select undef, undef, undef, 0.1 }`;

/** A CRIU beside the one that the runtime starts. */
function criu(...args: readonly string[]): { readonly ended: Promise<number | null>; readonly said: () => string } {
  const child = spawn("criu", args, { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (text += chunk.toString()));
  const ended = once(child, "exit").then(([code]) => code as number | null);
  return { ended, said: () => text };
}

function appArmorProblem(): string | undefined {
  const enabled = "/sys/module/apparmor/parameters/enabled";
  if (!existsSync(enabled) || !readFileSync(enabled, "utf8").startsWith("Y")) return "AppArmor is not enabled";
  return spawnSync("apparmor_parser", ["--version"]).error === undefined ? undefined : "needs apparmor_parser";
}
