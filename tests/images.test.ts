/** Images on a node: what prune takes by docker's filters, and what goes by itself where the disk fills up. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { after, before, describe, test } from "node:test";
import { type Client, connect } from "@berth/cli";
import { file, imageArchive } from "../scripts/busybox-image.ts";
import { checkout, IMAGE, TestDaemon } from "./support/daemon.ts";

interface Made {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly created?: string;
}

type Filter = Parameters<Client["berth"]["pruneImages"]>[0];

describe("images", () => {
  let daemon: TestDaemon;
  let client: Client;
  const berth = (...argv: string[]): { status: number | null; stderr: string } =>
    spawnSync(`${checkout}/bin/berth`, ["--address", daemon.socket, ...argv], { encoding: "utf8" });
  const succeed = (...argv: string[]): void => {
    const { status, stderr } = berth(...argv);
    assert.equal(status, 0, stderr);
  };
  const load = async ({ name, labels, created }: Made): Promise<void> => {
    const more = created === undefined ? {} : { created };
    const files = [file("name", Buffer.from(name))];
    const chunk = new Uint8Array(imageArchive(`localhost/${name}:1`, files, { Labels: labels }, more));
    await client.berth.import(Readable.from([{ chunk }]));
  };
  const names = async (): Promise<Set<string | undefined>> => {
    const { images } = await client.images.listImages({});
    return new Set(images.flatMap(({ repoTags }) => repoTags));
  };
  const prune = async (filter: Filter): Promise<string[]> =>
    (await client.berth.pruneImages(filter)).images.flatMap(({ references }) => references);

  before(async () => {
    daemon = await TestDaemon.start({
      config: `version = 3\n[plugins."io.containerd.cri.v1.images".pinned_images]\nmine = "localhost/pinned:1"\n`,
    });
    client = connect(daemon.socket);
  });
  after(async () => {
    client.close();
    await daemon[Symbol.asyncDispose]();
  });

  test("prune takes what its filters say, and never what is used or pinned", async () => {
    const day = 86_400_000;
    const ago = (days: number): string => new Date(Date.now() - days * day).toISOString();
    succeed("run", "-d", "--name", "user", IMAGE, "sleep", "600");
    await load({ name: "pinned", labels: { team: "a" }, created: ago(100) });
    await load({ name: "old", labels: { team: "a", keep: "" }, created: ago(30) });
    await load({ name: "young", labels: { team: "b" }, created: ago(1) });
    await load({ name: "plain" });
    const [pinned, old, young, plain] = ["pinned", "old", "young", "plain"].map((name) => `localhost/${name}:1`);
    assert.deepEqual(await names(), new Set([IMAGE, old, pinned, plain, young]));
    const before = (days: number): bigint => BigInt(Date.parse(ago(days))) * 1_000_000n;
    assert.deepEqual(await prune({}), [], "all of them have names");
    assert.deepEqual(await prune({ all: true, labels: ["team=c"] }), []);
    assert.deepEqual(await prune({ all: true, labels: ["team"], until: before(80) }), []);
    assert.deepEqual(await prune({ all: true, labels: ["team=a", "keep"], until: before(20) }), [old]);
    assert.deepEqual(await prune({ all: true, withoutLabels: ["team"] }), [plain]);
    const { images: each, containers } = await client.berth.diskUsage({ verbose: true });
    const sizes = new Map(each.map(({ references, ...image }) => [references[0], image]));
    assert.deepEqual([sizes.get(IMAGE)?.containers, sizes.get(young)?.containers, containers.length], [1, 0, 1]);
    assert.ok((sizes.get(young)?.uniqueBytes ?? 0n) > 0n && (containers[0]?.bytes ?? 0n) > 0n);
    const { images, reclaimedBytes } = await client.berth.pruneImages({ all: true });
    assert.deepEqual(
      images.map(({ references }) => references),
      [[young]],
    );
    assert.ok(reclaimedBytes > 0n);
    assert.deepEqual(await names(), new Set([IMAGE, pinned]), "a container has the one, the configuration the other");
  });

  test("an archive or a push for another platform than the image's is refused by name", () => {
    const { status, stderr } = berth("save", "--platform", "linux/s390x", IMAGE);
    assert.equal(status, 1);
    assert.match(stderr, /is here for linux\/.*, not for linux\/s390x: pull it for that first/);
  });

  test("where the disk is fuller than it may be, unused images go; used and pinned ones stay", async () => {
    await load({ name: "unused" });
    await daemon.reload(
      [
        "version = 3",
        '[plugins."io.containerd.cri.v1.images".pinned_images]',
        'mine = "localhost/pinned:1"',
        '[plugins."io.berth.images.v1"]',
        "gc_high_threshold_percent = 1",
        "gc_low_threshold_percent = 0",
        'gc_minimum_age = "0s"',
        'gc_period = "200ms"',
        "",
      ].join("\n"),
    );
    await daemon.kill("SIGTERM");
    await daemon.startAgain();
    const deadline = Date.now() + 120_000;
    while ((await names()).has("localhost/unused:1") && Date.now() < deadline) await delay(100);
    assert.deepEqual(await names(), new Set([IMAGE, "localhost/pinned:1"]));
    succeed("rm", "-f", "user");
  });
});
