/** Checkpoint and restore, by the CRIU of the machine: refused where it cannot work, tried where it can (a guest: tests/guest). */
import assert from "node:assert/strict";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { oci } from "@berth/spec";
import { BERTH_RUNC, Workshop, whyNoRuntime } from "./support/runtimes.ts";

const check = spawnSync("criu", ["check"], { encoding: "utf8" });
const lacking =
  check.error === undefined
    ? check.status === 0
      ? undefined
      : `criu cannot work here: ${`${check.stdout}${check.stderr}`.trim()}`
    : "criu is not installed";
const skip = whyNoRuntime() ?? lacking;

const writable = (spec: oci.Spec): oci.Spec => ({
  ...spec,
  root: { ...spec.root, path: spec.root?.path ?? "", readonly: false },
});
const COUNTER = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.2; done";

describe("checkpoint where criu cannot work", { skip: whyNoRuntime() ?? (lacking ? false : "criu works here") }, () => {
  test("is refused with criu's reason, and nothing is touched", () => {
    using shop = new Workshop({ path: BERTH_RUNC });
    const id = shop.id();
    const images = join(shop.directory, "images");
    assert.equal(shop.quiet("run", "-d", "-b", shop.bundle("exec sleep 60"), id), 0);
    for (const args of [
      ["checkpoint", "--image-path", images, id],
      ["restore", "--image-path", images, shop.id()],
    ]) {
      const { status, stderr } = shop.run(...args);
      assert.equal(status, 1);
      assert.match(stderr, /criu check|executable file not found/);
    }
    assert.equal(existsSync(images), false);
    assert.equal(shop.status(id), "running");
  });
});

describe("checkpoint and restore", skip === undefined ? {} : { skip }, () => {
  let shop: Workshop;
  let mounts: string;
  before(() => {
    shop = new Workshop({ path: BERTH_RUNC });
    mounts = readFileSync("/proc/self/mountinfo", "utf8");
  });
  after(() => {
    shop[Symbol.dispose]();
  });

  const count = () => Number(readFileSync(join(shop.directory, "rootfs", "count"), "utf8"));
  const cgroups = (id: string) =>
    spawnSync("find", ["/sys/fs/cgroup", "-name", id], { encoding: "utf8" }).stdout.trim();
  /** Neither state nor cgroup nor mount nor process of criu's. */
  const nothingLeft = (id: string) => {
    assert.equal(existsSync(join(shop.root, id)), false);
    assert.equal(cgroups(id), "");
    assert.equal(readFileSync("/proc/self/mountinfo", "utf8"), mounts);
    const running = readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && commandOf(pid) === "criu");
    assert.deepEqual(running, []);
  };

  test("a counter, its files and its memory go on in a container like any other", async () => {
    const id = shop.id();
    const [images, work] = [join(shop.directory, "images"), join(shop.directory, "work")];
    const bundle = shop.bundle(`echo kept >/dev/shm/kept; exec 5</dev/shm/kept; ${COUNTER}`, writable);
    assert.equal(shop.quiet("run", "-d", "-b", bundle, id), 0);
    await until(() => count() > 3);
    const dumped = shop.run("checkpoint", "--image-path", images, "--work-path", work, id);
    assert.equal(dumped.status, 0, dumped.stderr);
    const stoppedAt = count();
    nothingLeft(id);
    assert.ok(existsSync(join(images, "inventory.img")) && existsSync(join(work, "dump.log")));
    assert.deepEqual(JSON.parse(readFileSync(join(images, "descriptors.json"), "utf8")), Array(3).fill("/dev/null"));

    const pidFile = join(shop.directory, "pid");
    const restored = [
      "restore",
      "-d",
      "-b",
      bundle,
      "--pid-file",
      pidFile,
      "--image-path",
      images,
      "--work-path",
      work,
    ];
    assert.equal(shop.quiet(...restored, id), 0);
    await until(() => count() > stoppedAt + 2);
    const state = JSON.parse(shop.run("state", id).stdout) as { status: string; pid: number };
    assert.deepEqual([state.status, state.pid], ["running", Number(readFileSync(pidFile, "utf8"))]);
    const parent = Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${state.pid}/status`, "utf8"))?.[1]);
    assert.doesNotMatch(commandOf(parent), /bosun|criu|runc/);
    assert.match(readFileSync(`/proc/${state.pid}/cgroup`, "utf8"), new RegExp(`${id}$`, "m"));
    const inside = shop.run("exec", id, "sh", "-c", "cat /dev/shm/kept; ls /proc/1/fd; cat /proc/self/cgroup");
    assert.deepEqual([inside.status, inside.stdout.split("\n")[0]], [0, "kept"]);
    assert.match(inside.stdout, /^5$/m);
    assert.equal(shop.run("delete", "-f", id).status, 0);
    nothingLeft(id);
  });

  test("pre-dump, a dump on top of it that leaves the container running, and a restore under another name", async () => {
    const id = shop.id();
    const [parent, images] = [join(shop.directory, "before"), join(shop.directory, "after")];
    const bundle = shop.bundle(COUNTER, writable);
    assert.equal(shop.quiet("run", "-d", "-b", bundle, id), 0);
    const first = shop.run("checkpoint", "--pre-dump", "--image-path", parent, id);
    assert.equal(first.status, 0, first.stderr);
    const refused = shop.run("checkpoint", "--parent-path", parent, "--image-path", images, id);
    assert.deepEqual([refused.status, /--parent-path must be relative/.test(refused.stderr)], [1, true]);
    const second = shop.run("checkpoint", "--leave-running", "--parent-path", "../before", "--image-path", images, id);
    assert.equal(second.status, 0, second.stderr);
    assert.ok(statSync(join(images, "parent")).isDirectory());
    const at = count();
    await until(() => count() > at + 2);
    assert.equal(shop.run("delete", "-f", id).status, 0);
    const other = shop.id();
    const ignoring = ["--manage-cgroups-mode", "ignore"];
    assert.equal(shop.quiet("restore", "-d", ...ignoring, "-b", bundle, "--image-path", images, other), 0);
    const restoredAt = count();
    await until(() => count() > restoredAt + 2);
    assert.equal(shop.run("delete", "-f", other).status, 0);
    nothingLeft(other);
  });

  test("in the foreground, by pipes and by a terminal", async () => {
    for (const terminal of [false, true]) {
      const id = shop.id();
      const images = join(shop.directory, `foreground-${terminal}`);
      const bundle = shop.bundle("while read line; do [ $line = end ] && exit 7; echo got $line; done", (spec) =>
        writable({ ...spec, process: { ...spec.process, terminal } as oci.Process }),
      );
      const start = (...args: string[]) => attended(terminal, [BERTH_RUNC, "--root", shop.root, ...args]);
      const run = start("run", "-b", bundle, id);
      await run.answer("one\n", "got one");
      const dumped = shop.run("checkpoint", "--image-path", images, id);
      assert.equal(dumped.status, 0, dumped.stderr);
      assert.notEqual(await run.ended, 0);
      const again = start("restore", "-b", bundle, "--image-path", images, id);
      await again.answer("two\n", "got two");
      again.child.stdin?.write("end\n");
      assert.equal(await again.ended, 7);
      nothingLeft(id);
    }
  });

  test("a TCP connection with somebody outside", async () => {
    const netns = `berth-criu-${process.pid}`;
    const inside = ["netns", "exec", netns];
    const peers: Attended[] = [];
    assert.equal(spawnSync("ip", ["netns", "add", netns]).status, 0);
    try {
      spawnSync("ip", [...inside, "ip", "link", "set", "lo", "up"]);
      const id = shop.id();
      const images = join(shop.directory, "tcp");
      const joined = (spec: oci.Spec): oci.Spec => ({
        ...writable(spec),
        linux: {
          ...spec.linux,
          namespaces: (spec.linux?.namespaces ?? []).map((one) =>
            one.type === "network" ? { ...one, path: `/run/netns/${netns}` } : one,
          ),
        },
      });
      const bundle = shop.bundle("exec nc -l -p 7777 -e cat", joined);
      assert.equal(shop.quiet("run", "-d", "-b", bundle, id), 0);
      await until(() =>
        /1E61/.test(spawnSync("ip", [...inside, "cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout.toString()),
      );
      const peer = attended(false, ["ip", ...inside, "busybox", "nc", "127.0.0.1", "7777"]);
      peers.push(peer);
      await peer.answer("before\n", "before");
      const dumped = shop.run("checkpoint", "--tcp-established", "--image-path", images, id);
      assert.equal(dumped.status, 0, dumped.stderr);
      assert.equal(shop.quiet("restore", "-d", "--tcp-established", "-b", bundle, "--image-path", images, id), 0);
      await peer.answer("behind\n", "behind");
      assert.equal(shop.run("delete", "-f", id).status, 0);
      nothingLeft(id);
    } finally {
      for (const { child } of peers) child.kill("SIGKILL");
      spawnSync("ip", ["netns", "del", netns]);
    }
  });

  test("what criu fails at leaves the container running, or nothing at all", () => {
    const directory = mkdtempSync(join(tmpdir(), "berth-outside-"));
    const id = shop.id();
    const images = join(shop.directory, "failing");
    // A descriptor of a file that the container's mounts do not have.
    const { status } = spawnSync("sh", [
      "-c",
      `exec "$0" "$@" >${directory}/file 2>&1 </dev/null`,
      BERTH_RUNC,
      "--root",
      shop.root,
      "run",
      "-d",
      "-b",
      shop.bundle("exec sleep 60"),
      id,
    ]);
    assert.equal(status, 0);
    const dumped = shop.run("checkpoint", "--image-path", images, id);
    assert.equal(dumped.status, 1);
    assert.match(dumped.stderr, /criu failed: type DUMP errno \d+: .*Can't lookup mount/);
    assert.match(dumped.stderr, /Quoting .*dump\.log/);
    assert.equal(shop.status(id), "running");
    const missing = shop.run(
      "restore",
      "-d",
      "-b",
      shop.bundle("true"),
      "--image-path",
      join(directory, "none"),
      shop.id(),
    );
    assert.deepEqual([missing.status, /descriptors\.json/.test(missing.stderr)], [1, true]);
    const broken = shop.id();
    const failed = shop.run("restore", "-d", "-b", shop.bundle("true"), "--image-path", images, broken);
    assert.equal(failed.status, 1);
    assert.match(failed.stderr, /criu failed: type RESTORE/);
    nothingLeft(broken);
    assert.equal(shop.run("delete", "-f", id).status, 0);
    rmSync(directory, { recursive: true });
  });
});

function commandOf(pid: number | string): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return ""; // it has ended meanwhile
  }
}

interface Attended {
  readonly child: ChildProcess;
  /** Of what was started. */
  readonly ended: Promise<number | null>;
  /** Writes, and waits for a text in the output. */
  readonly answer: (input: string, expected: string) => Promise<void>;
}

/** A program with pipes, or behind a terminal of script(1). */
function attended(terminal: boolean, [program = "", ...args]: readonly string[]): Attended {
  const child = terminal
    ? spawn("script", ["-qec", [program, ...args].join(" "), "/dev/null"], { stdio: ["pipe", "pipe", "pipe"] })
    : spawn(program, args, { stdio: ["pipe", "pipe", "pipe"] });
  let output = "";
  const { promise, resolve } = Promise.withResolvers<number | null>();
  child.once("exit", (code) => resolve(code));
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const answer = async (input: string, expected: string): Promise<void> => {
    const from = output.length;
    child.stdin?.write(input);
    await until(
      () => output.slice(from).includes(expected),
      () => `no ${JSON.stringify(expected)} in ${JSON.stringify(output)}`,
    );
  };
  return { child, ended: promise, answer };
}

async function until(condition: () => boolean, problem = () => "the condition never came true"): Promise<void> {
  for (const deadline = Date.now() + 60_000; !condition();) {
    assert.ok(Date.now() < deadline, problem());
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
