import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FakeDaemon, runBerth } from "./double/index.ts";

const run = (daemon: FakeDaemon, ...argv: string[]) => runBerth(["-a", daemon.socket, ...argv]);

test("checkpoint: create, ls, rm; the container is stopped unless it is left running", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "-d", "--name", "web", "box", "sleep", "60");
  const [container] = daemon.containers.values();
  assert.ok(container);
  const place = ["--checkpoint-dir", join(daemon.directory, "checkpoints")];
  const archive = (name: string): string => join(daemon.directory, "checkpoints", container.id, `${name}.tar`);
  const listed = async (): Promise<string> => (await run(daemon, "checkpoint", "ls", ...place, "web")).stdout;
  assert.equal(await listed(), "CHECKPOINT NAME\n");
  const create = (...args: string[]) => run(daemon, "checkpoint", "create", ...place, ...args);

  assert.equal((await create("--leave-running", "web", "one")).stdout, "one\n");
  assert.equal(readFileSync(archive("one"), "utf8"), container.id);
  assert.deepEqual(
    daemon.calls.filter((call) => /^(Checkpoint|Stop)Container/.test(call)),
    ["CheckpointContainer"],
  );
  assert.equal(
    (await create("web", "one")).stderr,
    "berth: checkpoint with name one already exists for container web\n",
  );
  assert.match((await create("web", "../two")).stderr, /checkpoint name "\.\.\/two" is not letters/);
  assert.equal((await create("web", "two")).stdout, "two\n");
  assert.ok(daemon.calls.includes("StopContainer 0"));
  assert.equal(await listed(), "CHECKPOINT NAME\none\ntwo\n");
  assert.equal((await create("web", "three")).stderr, "berth: container web is not running\n");

  assert.equal((await run(daemon, "checkpoint", "rm", ...place, "web", "one")).code, 0);
  assert.equal(existsSync(archive("one")), false);
  const again = await run(daemon, "checkpoint", "rm", ...place, "web", "one");
  assert.deepEqual([again.code, again.stderr], [1, "berth: checkpoint one does not exist for container web\n"]);
});

test("run: an archive goes in the place of an image, and nothing is pulled", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.images.set("/checkpoints/one.tar", {
    id: "/checkpoints/one.tar",
    tags: ["/checkpoints/one.tar"],
    cmd: ["sleep", "60"],
  });
  await run(daemon, "run", "-d", "--name", "again", "/checkpoints/one.tar");
  const [container] = daemon.containers.values();
  assert.equal(container?.config.image?.image, "/checkpoints/one.tar");
  assert.ok(!daemon.calls.some((call) => /Pull/.test(call)));
});
