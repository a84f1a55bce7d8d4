/** What images and containers take on disk: df, prune, fsck, save. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { berth } from "@berth/spec";
import { FakeDaemon, runBerth, testShell } from "./double/index.ts";

const run = (daemon: FakeDaemon, ...argv: string[]) => runBerth(["-a", daemon.socket, ...argv]);

test("system prune removes what ended of berth run, and images without a name; nothing without -f", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "--name", "ended", "box", "exit", "0");
  await run(daemon, "run", "-d", "--name", "alive", "box", "sleep");
  daemon.addContainer({ name: "kubelets" });
  const { id } = daemon.addImage("docker.io/library/loose:latest", []);
  daemon.images.get(id)?.tags.pop();
  assert.equal((await run(daemon, "system", "prune")).code, 1);
  assert.equal(daemon.containers.size, 3);
  const { stdout } = await run(daemon, "system", "prune", "-f");
  assert.equal(stdout, `removed container ended\nremoved image ${id}\nfreed 4.32MB of images\n`);
  assert.equal(daemon.containers.size, 2);
});

test("save writes an archive to a file or to a pipe, not to a terminal", async () => {
  await using daemon = await FakeDaemon.start();
  assert.equal((await run(daemon, "save", "app", "db:16")).stdout, "app\ndb:16\n");
  assert.equal((await run(daemon, "image", "save", "app")).stdout, "app\n");
  const directory = mkdtempSync(join(tmpdir(), "berth-cli-"));
  try {
    assert.equal((await run(daemon, "save", "-o", join(directory, "out.tar"), "app")).stdout, "");
    assert.equal(readFileSync(join(directory, "out.tar"), "utf8"), "app\n");
  } finally {
    rmSync(directory, { recursive: true });
  }
  const refused = await runBerth(["-a", daemon.socket, "save", "app"], testShell({ tty: true }));
  assert.match(refused.stderr, /not written to a terminal: use -o/);
});

test("system df has docker's columns; fsck's exit code says whether something is wrong", async () => {
  await using daemon = await FakeDaemon.start();
  assert.equal(
    (await run(daemon, "system", "df")).stdout,
    "TYPE         TOTAL   ACTIVE   SIZE   RECLAIMABLE\nImages       3       1        5MB    4MB (80%)\nContainers   0       0        0B     0B\n",
  );
  assert.deepEqual(JSON.parse((await run(daemon, "system", "df", "--json")).stdout)[0], {
    type: "images",
    total: 3,
    active: 1,
    size: 5_000_000,
    reclaimable: 4_000_000,
  });
  await run(daemon, "run", "--name", "one", "box", "exit", "0");
  const [imageId = ""] = daemon.images.keys();
  const [id = ""] = daemon.containers.keys();
  const each = (await run(daemon, "system", "df", "-v")).stdout;
  assert.match(each, /^Images space usage:\n\nIMAGE +IMAGE ID +CREATED +SIZE +SHARED SIZE +UNIQUE SIZE +CONTAINERS\n/);
  assert.match(
    each,
    new RegExp(`box:latest +${imageId.slice(7, 19)} +About an hour ago +5MB +4MB +1MB +1\n\nContainers`),
  );
  assert.match(each, /\nCONTAINER ID +IMAGE +SIZE +CREATED +STATUS +NAMES\n/);
  assert.match(each, new RegExp(`\n${id.slice(0, 12)} +\\S+ +4.1kB +.* +Exited \\(0\\) .* +one\n$`));
  const all = JSON.parse((await run(daemon, "system", "df", "-v", "--json")).stdout) as Record<string, object[]>;
  assert.deepEqual(
    [all["images"]?.map((image) => "sharedSize" in image && image.sharedSize), all["containers"]?.length],
    [[4_000_000], 1],
  );
  assert.deepEqual(await run(daemon, "system", "fsck"), {
    code: 0,
    stdout: "checked 1 blobs and layers: all is well\n",
    stderr: "",
  });
  daemon.damaged = true;
  const found = await run(daemon, "system", "fsck");
  assert.deepEqual([found.code, found.stdout], [1, "blob sha256:1: cannot be read\n"]);
  assert.match(found.stderr, /1 of 1 problems are left: berth system fsck --repair/);
  assert.equal(
    (await run(daemon, "system", "fsck", "--repair", "-q")).stdout,
    "blob sha256:1: cannot be read; removed\n",
  );
});

test("prune's filters: until, labels, dangling; what is wrong with one", async () => {
  await using daemon = await FakeDaemon.start();
  const asked = async (...args: string[]): Promise<unknown[]> => {
    const { code, stderr } = await run(daemon, ...args);
    assert.equal(code, 0, stderr);
    const { all, until, labels, withoutLabels } = daemon.registryRequests.pop() as berth.PruneImagesRequest;
    return [all, until, labels, withoutLabels];
  };
  const filters = ["--filter", "until=2026-01-02T00:00:00Z", "--filter", "label=a", "--filter", "label=b=c=d"];
  const until = BigInt(Date.UTC(2026, 0, 2)) * 1_000_000n;
  assert.deepEqual(await asked("image", "prune", "-f", ...filters), [false, until, ["a", "b=c=d"], []]);
  assert.deepEqual(await asked("image", "prune", "-f", "--filter", "dangling=false"), [true, 0n, [], []]);
  assert.deepEqual(await asked("image", "prune", "-a", "-f", "--filter", "dangling=true"), [false, 0n, [], []]);
  assert.deepEqual(await asked("system", "prune", "-a", "-f", "--filter", "label!=keep"), [true, 0n, [], ["keep"]]);
  const before = BigInt(Date.now() - 3_600_000) * 1_000_000n;
  const [, spanned] = await asked("system", "prune", "-f", "--filter", "until=1h");
  assert.ok((spanned as bigint) >= before && (spanned as bigint) <= before + 60_000_000_000n);
  for (const [filter, message] of [
    ["size=1", /use until=…, label=…, label!=… or dangling=…/],
    ["until=soon", /--filter until: "soon" is not a time/],
    ["dangling=maybe", /use true or false/],
  ] as const)
    assert.match((await run(daemon, "image", "prune", "-f", "--filter", filter)).stderr, message);
  assert.match(
    (await run(daemon, "system", "prune", "-f", "--filter", "dangling=true")).stderr,
    /use until=…, label=… or label!=…/,
  );
  assert.match(
    (await run(daemon, "image", "prune", "-f", "--filter", "until=1h", "--filter", "until=2h")).stderr,
    /once only/,
  );
});

test("system prune's filters hold for containers too", async () => {
  await using daemon = await FakeDaemon.start();
  await run(daemon, "run", "--name", "kept", "--label", "keep=yes", "box", "exit", "0");
  await run(daemon, "run", "--name", "ended", "box", "exit", "0");
  const names = (): unknown[] => [...daemon.containers.values()].map(({ config }) => config.metadata?.name);
  await run(daemon, "system", "prune", "-f", "--filter", "until=1h");
  assert.equal(names().length, 2);
  const { stdout } = await run(daemon, "system", "prune", "-f", "--filter", "label!=keep");
  assert.match(stdout, /^removed container ended\n/);
  assert.equal(names().length, 1);
});

test("image prune removes images without a name, and with -a unused ones that have one", async () => {
  await using daemon = await FakeDaemon.start();
  const { id } = daemon.addImage("docker.io/library/loose:latest", []);
  daemon.images.get(id)?.tags.pop();
  assert.equal((await run(daemon, "image", "prune")).code, 1);
  assert.match((await run(daemon, "image", "prune", "-f")).stdout, new RegExp(`^removed image ${id}\nfreed `));
  const left = daemon.images.size;
  assert.ok(left > 0);
  await run(daemon, "image", "prune", "-a", "-f");
  assert.equal(daemon.images.size, 0);
});
