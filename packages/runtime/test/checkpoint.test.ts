/** Checkpoint and restore, by the CRIU of the machine: refused where it cannot work, tried where it can (a guest: tests/guest). */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { oci } from "@berth/spec";
import {
  attended,
  CheckpointShop,
  commandOf,
  COUNTER,
  criuProblem,
  freePort,
  sockets,
  until,
  withHostNetwork,
  writable,
} from "./support/checkpoints.ts";
import { BERTH_RUNC, Workshop, whyNoRuntime } from "./support/runtimes.ts";

const lacking = criuProblem();
const skip = whyNoRuntime() ?? lacking;

describe("checkpoint where criu cannot work", { skip: whyNoRuntime() ?? (lacking ? false : "criu works here") }, () => {
  test("is refused with criu's reason, and nothing is touched", () => {
    using shop = new Workshop({ path: BERTH_RUNC });
    const id = shop.id();
    const images = join(shop.directory, "images");
    assert.equal(shop.quiet("run", "-d", "-b", shop.bundle("exec sleep 100000"), id), 0);
    for (const args of [
      ["checkpoint", "--image-path", images, id],
      ["restore", "-b", shop.bundle("true"), "--image-path", images, shop.id()],
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
  let shop: CheckpointShop;
  before(() => {
    shop = new CheckpointShop();
  });
  after(() => {
    shop[Symbol.dispose]();
  });

  test("a counter, its files and its memory go on in a container like any other", async () => {
    const id = shop.id();
    const [images, work] = [join(shop.directory, "images"), join(shop.directory, "work")];
    const bundle = shop.bundle(`echo kept >/dev/shm/kept; exec 5</dev/shm/kept; ${COUNTER}`, writable);
    shop.detached("run", "-d", "-b", bundle, id);
    await until(() => shop.count() > 3);
    shop.must("checkpoint", "--image-path", images, "--work-path", work, id);
    const stoppedAt = shop.count();
    shop.nothingLeft(id);
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
    shop.detached(...restored, id);
    await until(() => shop.count() > stoppedAt + 2);
    const state = JSON.parse(shop.run("state", id).stdout) as { status: string; pid: number };
    assert.deepEqual([state.status, state.pid], ["running", Number(readFileSync(pidFile, "utf8"))]);
    const parent = Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${state.pid}/status`, "utf8"))?.[1]);
    assert.doesNotMatch(commandOf(parent), /bosun|criu|runc/);
    assert.match(readFileSync(`/proc/${state.pid}/cgroup`, "utf8"), new RegExp(`${id}$`, "m"));
    const inside = shop.run("exec", id, "sh", "-c", "cat /dev/shm/kept; ls /proc/1/fd; cat /proc/self/cgroup");
    assert.deepEqual([inside.status, inside.stdout.split("\n")[0]], [0, "kept"]);
    assert.match(inside.stdout, /^5$/m);
    shop.must("delete", "-f", id);
    shop.nothingLeft(id);
  });

  test("pre-dump, a dump on top of it that leaves the container running, and a restore under another name", async () => {
    const id = shop.id();
    const [parent, images] = [join(shop.directory, "before"), join(shop.directory, "after")];
    const bundle = shop.bundle(COUNTER, writable);
    shop.detached("run", "-d", "-b", bundle, id);
    shop.must("checkpoint", "--pre-dump", "--image-path", parent, id);
    const refused = shop.run("checkpoint", "--parent-path", parent, "--image-path", images, id);
    assert.deepEqual([refused.status, /--parent-path must be relative/.test(refused.stderr)], [1, true]);
    shop.must("checkpoint", "--leave-running", "--parent-path", "../before", "--image-path", images, id);
    assert.ok(statSync(join(images, "parent")).isDirectory());
    const at = shop.count();
    await until(() => shop.count() > at + 2);
    shop.must("delete", "-f", id);
    const other = shop.id();
    const ignoring = ["--manage-cgroups-mode", "ignore"];
    shop.detached("restore", "-d", ...ignoring, "-b", bundle, "--image-path", images, other);
    const restoredAt = shop.count();
    await until(() => shop.count() > restoredAt + 2);
    shop.must("delete", "-f", other);
    shop.nothingLeft(other);
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
      shop.must("checkpoint", "--image-path", images, id);
      assert.notEqual(await run.ended, 0);
      const again = start("restore", "-b", bundle, "--image-path", images, id);
      await again.answer("two\n", "got two");
      again.child.stdin?.write("end\n");
      assert.equal(await again.ended, 7);
      shop.nothingLeft(id);
    }
  });

  test("a TCP connection with somebody outside", async () => {
    const id = shop.id();
    const images = join(shop.directory, "tcp");
    const port = await freePort();
    const bundle = shop.bundle(`exec nc -l -p ${port} -e cat`, (spec) => withHostNetwork(writable(spec)));
    shop.detached("run", "-d", "-b", bundle, id);
    await until(() => sockets(port, "LISTEN") > 0);
    const peer = attended(false, ["busybox", "nc", "127.0.0.1", String(port)]);
    try {
      await peer.answer("before\n", "before");
      shop.refused(/tcp-established/, "checkpoint", "--image-path", images, id);
      shop.must("checkpoint", "--tcp-established", "--image-path", images, id);
      shop.detached("restore", "-d", "--tcp-established", "-b", bundle, "--image-path", images, id);
      await peer.answer("behind\n", "behind");
      shop.must("delete", "-f", id);
      shop.nothingLeft(id);
    } finally {
      peer.child.kill("SIGKILL");
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
      shop.bundle("exec sleep 100000"),
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
    shop.nothingLeft(broken);
    shop.must("delete", "-f", id);
    rmSync(directory, { recursive: true });
  });
});
