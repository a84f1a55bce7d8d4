import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { describePlan, planContainer, readBundle } from "../src/index.ts";
import { hybridHost } from "@berth/kernel/testing/hosts";
import { shellSpec } from "./support/machine.ts";

async function bundle(t: TestContext, config?: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "berth-bundle-"));
  t.after(() => rm(directory, { recursive: true }));
  if (config !== undefined) await writeFile(join(directory, "config.json"), config);
  return directory;
}

test("a bundle's paths of the host become absolute", async (t) => {
  const spec = {
    ...shellSpec("true"),
    mounts: [
      { destination: "/data", source: "data", options: ["rbind"] },
      { destination: "/tmp", type: "tmpfs", source: "tmpfs" },
    ],
  };
  const directory = await bundle(t, JSON.stringify(spec));
  const read = readBundle(directory);
  assert.equal(read.rootfs, join(directory, "rootfs"));
  assert.deepEqual(
    read.spec.mounts?.map(({ source }) => source),
    [join(directory, "data"), "tmpfs"],
  );
  const { plan } = planContainer(read.spec, {
    id: "b",
    rootfs: { kind: "path", path: read.rootfs },
    cgroup: { path: "/b" },
    host: hybridHost(),
    terminal: false,
  });
  assert.ok(describePlan(plan).some(({ words }) => words === `clone mount tree ${directory}/rootfs recursively`));
});

test("what is no bundle is told with its path", async (t) => {
  const reading = async (...content: string[]) => {
    const directory = await bundle(t, ...content);
    return () => readBundle(directory);
  };
  assert.throws(await reading(), /config\.json does not exist; a bundle is a directory with a config\.json/);
  assert.throws(await reading("{"), /config\.json is not JSON/);
  assert.throws(await reading("{}"), /config\.json: root\.path is missing/);
  assert.throws(await reading("null"), /config\.json: root\.path is missing/);
});
