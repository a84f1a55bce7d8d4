import assert from "node:assert/strict";
import { once } from "node:events";
import { EventEmitter } from "node:events";
import { mkdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { suite, test } from "node:test";
import { ConfDir, loadConfDir } from "../src/confdir.ts";
import { Bench } from "./fake.ts";

const list = (name: string) => ({ cniVersion: "1.0.0", name, plugins: [{ type: "bridge" }] });

suite("the configuration directory", () => {
  test("the first valid file by name wins; the others are problems or wait", async () => {
    await using bench = await Bench.make();
    await bench.conf("00-broken.conflist", "{");
    await bench.conf("20-b.conflist", list("b"));
    await bench.conf("10-a.json", { name: "a", type: "ptp" });
    await bench.conf("05-readme.txt", "not read");
    const one = await loadConfDir(bench.confDir);
    assert.deepEqual(
      one.networks.map((network) => network.name),
      ["a"],
    );
    assert.match(one.problems[0]?.message ?? "", /00-broken\.conflist: not valid JSON/);
    assert.deepEqual(
      (await loadConfDir(bench.confDir, 0)).networks.map((network) => network.name),
      ["a", "b"],
    );
  });

  test("a network named twice is one network and a problem", async () => {
    await using bench = await Bench.make();
    await bench.conf("10.conflist", list("a"));
    await bench.conf("20.conflist", list("a"));
    const { networks, problems } = await loadConfDir(bench.confDir, 0);
    assert.equal(networks.length, 1);
    assert.match(problems[0]?.message ?? "", /20\.conflist: name: "a" is already the network of .*10\.conflist$/);
  });

  test("plugins of the folder named after the network join it, unless it says otherwise", async () => {
    await using bench = await Bench.make();
    await mkdir(join(bench.confDir, "a"));
    await writeFile(join(bench.confDir, "a", "50-tuning.conf"), `{"type":"tuning"}`);
    await bench.conf("10.conflist", list("a"));
    assert.deepEqual(
      (await loadConfDir(bench.confDir)).networks[0]?.plugins.map((plugin) => plugin.type),
      ["bridge", "tuning"],
    );
    await bench.conf("10.conflist", { ...list("a"), loadOnlyInlinedPlugins: true });
    assert.deepEqual(
      (await loadConfDir(bench.confDir)).networks[0]?.plugins.map((plugin) => plugin.type),
      ["bridge"],
    );
  });
});

/** A ConfDir and its changes as events; fails by the runner's time-out if one does not come. */
async function watched(dir: string) {
  const events = new EventEmitter();
  const confDir = await ConfDir.open(dir, {
    onChange: (loaded) =>
      events.emit(
        "change",
        loaded.networks.map((network) => network.name),
      ),
  });
  return {
    confDir,
    async until(names: string[], act: () => Promise<unknown>): Promise<void> {
      const signal = AbortSignal.timeout(60_000);
      await act();
      while (confDir.loaded.networks.map((network) => network.name).join() !== names.join())
        await once(events, "change", { signal });
    },
    [Symbol.dispose]: () => confDir.close(),
  };
}

suite("its watch", () => {
  test("sees files come, change and go", async () => {
    await using bench = await Bench.make();
    using dir = await watched(bench.confDir);
    await dir.until(["a"], () => bench.conf("10.conflist", list("a")));
    await dir.until(["b"], () => bench.conf("10.conflist", list("b")));
    await dir.until(["c"], async () => {
      await bench.conf("tmp", list("c"));
      await rename(join(bench.confDir, "tmp"), join(bench.confDir, "10.conflist"));
    });
    await dir.until([], () => rm(join(bench.confDir, "10.conflist")));
  });

  test("survives the directory's removal and return, again and again", async () => {
    await using bench = await Bench.make();
    await bench.conf("10.conflist", list("a"));
    using dir = await watched(bench.confDir);
    for (const name of ["b", "c", "d"]) {
      await dir.until([], () => rm(bench.confDir, { recursive: true }));
      await dir.until([name], async () => {
        await mkdir(bench.confDir);
        await bench.conf("10.conflist", list(name));
      });
      // The new directory itself is watched, not only its arrival.
      await dir.until([`${name}2`], () => bench.conf("10.conflist", list(`${name}2`)));
    }
  });

  test("survives the removal of the directory's parents, and waits for them where they never were", async () => {
    await using bench = await Bench.make();
    const deep = join(bench.root, "etc", "cni", "net.d");
    using dir = await watched(deep);
    const fill = async (name: string) => {
      await mkdir(deep, { recursive: true });
      await writeFile(join(deep, "10.conflist"), JSON.stringify(list(name)));
    };
    await dir.until(["a"], () => fill("a"));
    await dir.until([], () => rm(join(bench.root, "etc"), { recursive: true }));
    await dir.until(["b"], () => fill("b"));
    await dir.until([], () => rename(deep, join(bench.root, "aside")));
    await dir.until(["c"], () => fill("c"));
  });

  test("follows a directory that is a link, also when it is pointed elsewhere", async () => {
    await using bench = await Bench.make();
    const link = join(bench.root, "link");
    await bench.conf("10.conflist", list("a"));
    await symlink(bench.confDir, link);
    using dir = await watched(link);
    assert.equal(dir.confDir.loaded.networks[0]?.name, "a");
    await dir.until(["b"], () => bench.conf("10.conflist", list("b")));
    const other = join(bench.root, "other");
    await mkdir(other);
    await writeFile(join(other, "10.conflist"), JSON.stringify(list("c")));
    await dir.until(["c"], async () => {
      await symlink(other, `${link}.new`);
      await rename(`${link}.new`, link);
    });
  });
});
