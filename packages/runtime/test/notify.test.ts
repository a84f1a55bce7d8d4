/** NOTIFY_SOCKET: a container's sd_notify(3) reaches whoever started it. */
import assert from "node:assert/strict";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { BERTH_RUNC, Workshop, whyNoRuntime } from "./support/runtimes.ts";

const SOURCE = new URL("support/notify.c", import.meta.url).pathname;
const skip =
  whyNoRuntime() ?? (spawnSync("musl-gcc", ["--version"]).error === undefined ? undefined : "needs musl-gcc");

describe("NOTIFY_SOCKET", skip === undefined ? {} : { skip }, () => {
  let shop: Workshop;
  let tool: string;
  const listening: ChildProcess[] = [];
  before(() => {
    shop = new Workshop({ path: BERTH_RUNC });
    tool = join(shop.directory, "rootfs/bin/notify");
    const { status, stderr } = spawnSync("musl-gcc", ["-static", "-o", tool, SOURCE], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
  });
  after(() => {
    for (const child of listening) child.kill();
    shop[Symbol.dispose]();
  });

  /** A manager that listens; what it was told, once it has seen the barrier. */
  async function manager(): Promise<{ readonly env: NodeJS.ProcessEnv; readonly told: Promise<string[]> }> {
    const socket = join(shop.directory, `manager-${shop.id()}`);
    const child = spawn(tool, ["receive", socket], { stdio: ["ignore", "pipe", "inherit"] });
    listening.push(child);
    const lines: string[] = [];
    const reader = createInterface(child.stdout).on("line", (line) => lines.push(line));
    const ended = once(reader, "close").then(() => lines.slice(1));
    await once(reader, "line");
    return { env: { ...process.env, NOTIFY_SOCKET: socket }, told: ended };
  }

  const SCRIPT = `[ $NOTIFY_SOCKET = /run/notify/notify.sock ] || exit 9
notify send STATUS=starting; notify send "READY=1
STATUS=up"; exec sleep 60`;
  const expected = (pid: number) => ["READY=1", `MAINPID=${pid}`, "BARRIER=1 with a descriptor"];

  test("run --detach returns when the container is ready", async () => {
    const { env, told } = await manager();
    const id = shop.id();
    const child = spawn(BERTH_RUNC, ["--root", shop.root, "run", "-d", "-b", shop.bundle(SCRIPT), id], {
      env,
      stdio: "ignore",
    });
    assert.deepEqual(await once(child, "exit"), [0, null]);
    const { pid } = JSON.parse(shop.run("state", id).stdout) as { pid: number };
    assert.deepEqual(await told, expected(pid));
    assert.equal(shop.run("delete", "-f", id).status, 0);
    assert.equal(existsSync(join(shop.root, id)), false);
  });

  test("create, then start", async () => {
    const { env, told } = await manager();
    const id = shop.id();
    const quiet = (...args: readonly string[]) =>
      spawnSync(BERTH_RUNC, ["--root", shop.root, ...args], { env, stdio: "ignore" }).status;
    assert.equal(quiet("create", "-b", shop.bundle(SCRIPT), id), 0);
    const starting = spawn(BERTH_RUNC, ["--root", shop.root, "start", id], { env, stdio: "ignore" });
    assert.deepEqual(await once(starting, "exit"), [0, null]);
    const { pid } = JSON.parse(shop.run("state", id).stdout) as { pid: number };
    assert.deepEqual(await told, expected(pid));
    assert.equal(shop.run("delete", "-f", id).status, 0);
  });

  test("in the foreground berth-runc stays the main process", async () => {
    const { env, told } = await manager();
    const script = SCRIPT.replace("exec sleep 60", "read line; exit 6");
    const child = spawn(BERTH_RUNC, ["--root", shop.root, "run", "-b", shop.bundle(script), shop.id()], {
      env,
      stdio: ["pipe", "ignore", "inherit"],
    });
    assert.deepEqual(await told, expected(child.pid ?? 0));
    child.stdin?.end("go\n");
    assert.deepEqual(await once(child, "exit"), [6, null]);
  });

  test("a container that ends without a word keeps nobody waiting", async () => {
    const { env } = await manager();
    const id = shop.id();
    const child = spawn(BERTH_RUNC, ["--root", shop.root, "run", "-d", "-b", shop.bundle("exit 3"), id], {
      env,
      stdio: "ignore",
    });
    assert.deepEqual(await once(child, "exit"), [0, null]);
    assert.equal(shop.run("delete", "-f", id).status, 0);
  });

  test("a manager that is not there fails the start, and leaves nothing", () => {
    const id = shop.id();
    const env = { ...process.env, NOTIFY_SOCKET: join(shop.directory, "nobody") };
    const { status, stderr } = shop.runWith({ env }, "run", "-d", "-b", shop.bundle("exec sleep 60"), id);
    assert.equal(status, 1);
    assert.match(stderr, /connect to NOTIFY_SOCKET .*nobody/);
    assert.equal(shop.run("state", id).status, 1);
  });
});
