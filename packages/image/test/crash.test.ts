/**
 * kill -9 at the steps of pulling, preparing and removing: what was committed is whole, what was not is gone after the next
 * start, and the same thing done again succeeds.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, createReadStream, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import test, { type TestContext } from "node:test";
import { startHand } from "@berth/kernel";
import { Images } from "../src/images.ts";
import { cutPower } from "./support/journal.ts";
import { build, FakeRegistry } from "./support/registry.ts";
import { BOSUN, leftovers, overlayOf, scratch, whyNoBosun } from "./support/store.ts";
import { CHANGES, LOOKS } from "./support/steps.ts";
import { archive } from "./support/tar-writer.ts";

const skip = whyNoBosun() === undefined ? {} : { skip: whyNoBosun() as string };
const built = build([
  archive({ name: "etc/", type: "5", mode: 0o755 }, { name: "etc/name", data: "base" }),
  archive({ name: "etc/top", data: "top" }),
]);

interface Death {
  readonly at?: number;
  readonly in?: "main" | "worker";
  /** A file for what it writes and syncs. */
  readonly journal?: string;
}

/** Runs a verb in a process of its own; resolves to how many steps it took, or undefined if it died on the way. */
async function run(root: string, verb: string, argument: string, death: Death = {}): Promise<number | undefined> {
  const support = new URL("./support/", import.meta.url);
  const child = spawn(
    process.execPath,
    [
      "--import",
      new URL("dying.ts", support).href,
      new URL("puller.ts", support).pathname,
      root,
      BOSUN,
      verb,
      argument,
    ],
    {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        BERTH_DIE_AT: String(death.at ?? 0),
        BERTH_DIE_IN: death.in ?? "main",
        ...(death.journal !== undefined && { BERTH_JOURNAL: death.journal }),
      },
    },
  );
  let out = "";
  let err = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (err += text));
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
    child.once("close", (...ended) => resolve(ended)),
  );
  if (signal === "SIGKILL") return undefined;
  assert.equal(code, 0, err);
  return Number(/steps (\d+)/.exec(out)?.[1]);
}

/** Kills it at a step of the `steps` that it took before; the last few are not the same number in every run. */
async function dies(root: string, verb: string, argument: string, at: number, steps: number): Promise<void> {
  const took = await run(root, verb, argument, { at });
  assert.ok(took === undefined || at > steps * 0.75, `it did not die at step ${at}: it took ${took}, before ${steps}`);
}

interface Opened {
  readonly images: Images;
  readonly did: readonly string[];
  close(): Promise<void>;
}

async function open(root: string): Promise<Opened> {
  const hand = await startHand({ bosun: BOSUN, state: join(root, "state") });
  const images = await Images.open({
    root: join(root, "images"),
    hand,
    serveSocket: join(root, "state", "serve.sock"),
  });
  const did = await images.recover();
  return {
    images,
    did,
    close: async () => {
      await images.close();
      await hand.close();
    },
  };
}

/** What is in the store is consistent: an image's layers have their files, and a second recovery finds nothing to do. */
async function checkWhole({ images }: Opened): Promise<void> {
  assert.deepEqual(await images.recover(), []);
  for (const record of images.list()) {
    const rootfs = await images.prepareRootfs("check", record);
    assert.equal(readFileSync(join(overlayOf(rootfs).lowers[0] as string, "etc/top"), "utf8"), "top");
    assert.equal(readFileSync(join(overlayOf(rootfs).lowers[1] as string, "etc/name"), "utf8"), "base");
    await images.removeRootfs("check");
  }
}

async function registryFor(t: TestContext): Promise<{ registry: FakeRegistry; reference: string }> {
  const registry = await FakeRegistry.start();
  t.after(() => registry.close());
  return { registry, reference: registry.push("a", "1", built) };
}

/** The steps of an operation that takes `steps` of them, as many as a test has time for. */
function* sample(steps: number, points = 6): Generator<number, void, undefined> {
  const every = Math.max(1, Math.ceil(steps / Number(process.env["BERTH_CRASH_POINTS"] ?? points)));
  for (let at = 1; at <= steps; at += every) yield at;
}

for (const where of ["main", "worker"] as const) {
  test(`killed in a pull (${where} thread)`, skip, async (t) => {
    const { reference } = await registryFor(t);
    const fresh = scratch(t);
    const steps = (await run(fresh, "pull", reference, { in: where })) as number;
    assert.ok(where === "worker" || steps > 20, `${steps} steps`);
    let deaths = 0;
    for (const at of where === "worker" ? [1, 2, 3] : sample(steps)) {
      const root = scratch(t);
      if ((await run(root, "pull", reference, { at, in: where })) === undefined) deaths++;
      const opened = await open(root);
      const ids = opened.images.list().map(({ id }) => id);
      assert.ok(ids.length === 0 || ids[0] === built.id);
      if (ids.length === 0)
        assert.deepEqual(leftovers(join(root, "images")), [], `killed at step ${at}: ${opened.did.join("; ")}`);
      await checkWhole(opened);
      assert.equal((await opened.images.pull(reference)).id, built.id);
      await checkWhole(opened);
      await opened.images.remove(reference);
      assert.deepEqual(leftovers(join(root, "images")), []);
      await opened.close();
    }
    assert.ok(deaths > 0);
  });
}

test("every call of node:fs that changes the disk is one of the steps", () => {
  const source = new URL("../src/", import.meta.url).pathname;
  const steps = new Set<string>([...CHANGES.promises, ...CHANGES.sync, ...LOOKS]);
  const unknown: string[] = [];
  for (const name of readdirSync(source, { recursive: true, encoding: "utf8" })) {
    if (!name.endsWith(".ts")) continue;
    const text = readFileSync(join(source, name), "utf8");
    for (const [, names = ""] of text.matchAll(/^import \{([^}]*)\} from "node:fs(?:\/promises)?";/gm))
      for (const each of names.split(",").map((part) => part.trim()))
        if (each !== "" && !each.startsWith("type ") && !steps.has(each.replace(/ as .*/, "")))
          unknown.push(`${name}: ${each}`);
  }
  // A checkpoint's changes go into a file of the checkpoint, which is not the store's.
  assert.deepEqual(unknown, ["layers/changes-job.ts: createWriteStream"]);
});

/** The archive of the image, as `berth save` makes it. */
async function savedArchive(t: TestContext, reference: string): Promise<string> {
  const root = scratch(t);
  const opened = await open(root);
  await opened.images.pull(reference);
  const file = join(root, "archive.tar");
  const parts: Uint8Array[] = [];
  for await (const chunk of opened.images.exportArchive([reference])) parts.push(chunk);
  writeFileSync(file, Buffer.concat(parts));
  await opened.close();
  return file;
}

test("killed in an import", skip, async (t) => {
  const { reference } = await registryFor(t);
  const archiveFile = await savedArchive(t, reference);
  const steps = (await run(scratch(t), "import", archiveFile)) as number;
  for (const at of sample(steps, 3)) {
    const root = scratch(t);
    await dies(root, "import", archiveFile, at, steps);
    const opened = await open(root);
    if (opened.images.list().length === 0)
      assert.deepEqual(leftovers(join(root, "images")), [], `killed at step ${at}: ${opened.did.join("; ")}`);
    await checkWhole(opened);
    assert.equal((await opened.images.importArchive(createReadStream(archiveFile)))[0]?.id, built.id);
    await checkWhole(opened);
    await opened.images.remove(built.id);
    assert.deepEqual(leftovers(join(root, "images")), []);
    await opened.close();
  }
});

test("killed in a repair", skip, async (t) => {
  const { reference } = await registryFor(t);
  const prepared = scratch(t);
  await run(prepared, "pull", reference);
  const damaged = join(prepared, "images/snapshots/1/layer.erofs");
  if (!existsSync(damaged)) return t.skip("no EROFS here");
  writeFileSync(damaged, readFileSync(damaged).fill(7, 2048));
  const copy = (): string => {
    const root = scratch(t);
    cpSync(prepared, root, { recursive: true, preserveTimestamps: true, filter: (path) => !path.endsWith(".sock") });
    return root;
  };
  const steps = (await run(copy(), "repair", "")) as number;
  for (const at of sample(steps, 3)) {
    const root = copy();
    await dies(root, "repair", "", at, steps);
    const opened = await open(root);
    for await (const problem of opened.images.check({ repair: true })) void problem;
    for await (const problem of opened.images.check()) assert.fail(`step ${at}: ${problem.problem}`);
    await checkWhole(opened);
    await opened.images.remove(reference);
    assert.deepEqual(leftovers(join(root, "images")), [], `killed at step ${at}: ${opened.did.join("; ")}`);
    await opened.close();
  }
  return undefined;
});

/** What layers' rows say of files that were not waited for is of a boot that is over. */
function anotherBoot(path: string): void {
  if (!existsSync(path)) return;
  const database = new DatabaseSync(path);
  const made = database.prepare("SELECT 1 FROM pragma_table_info('snapshots') WHERE name = 'boot'").get();
  if (made !== undefined) database.exec("UPDATE snapshots SET boot = 'the one before' WHERE boot IS NOT NULL");
  database.close();
}

for (const verb of ["pull", "import"] as const) {
  test(`the power goes in a ${verb}, and with it all that was not synced`, skip, async (t) => {
    const { reference } = await registryFor(t);
    const argument = verb === "pull" ? reference : await savedArchive(t, reference);
    const steps = (await run(scratch(t), verb, argument)) as number;
    let lost = 0;
    for (const at of [...sample(steps, 3), steps + 1]) {
      const root = scratch(t);
      const journal = join(root, "journal");
      const ended = await run(root, verb, argument, { at, journal });
      lost += cutPower(journal, join(root, "images")).length;
      anotherBoot(join(root, "images/berth.db"));
      const opened = await open(root);
      const ids = opened.images.list().map(({ id }) => id);
      if (ended !== undefined) assert.deepEqual(ids, [built.id], "what was answered stays");
      if (ids.length === 0)
        assert.deepEqual(leftovers(join(root, "images")), [], `cut at step ${at}: ${opened.did.join("; ")}`);
      await checkWhole(opened);
      for await (const problem of opened.images.check())
        assert.fail(`cut at step ${at}: ${problem.kind} ${problem.problem}`);
      await opened.images.pull(reference);
      await checkWhole(opened);
      await opened.close();
    }
    assert.ok(lost > 0, "something was not synced when the power went");
  });
}

for (const verb of ["run", "stop", "remove"]) {
  test(`killed in ${verb}`, skip, async (t) => {
    const { reference } = await registryFor(t);
    const prepared = scratch(t);
    await run(prepared, "pull", reference);
    if (verb !== "run") await run(prepared, "run", reference);
    if (verb === "stop") await run(prepared, "remove", reference);
    const argument = verb === "stop" ? "c" : reference;
    const whole = scratch(t);
    cpSync(prepared, whole, { recursive: true, preserveTimestamps: true, filter: (path) => !path.endsWith(".sock") });
    const steps = (await run(whole, verb, argument)) as number;
    for (const at of sample(steps)) {
      const root = scratch(t);
      cpSync(prepared, root, { recursive: true, preserveTimestamps: true, filter: (path) => !path.endsWith(".sock") });
      await dies(root, verb, argument, at, steps);
      const opened = await open(root);
      await checkWhole(opened);
      for (const key of opened.images.rootfsKeys()) await opened.images.removeRootfs(key);
      await opened.images.remove(reference);
      assert.deepEqual(leftovers(join(root, "images")), [], `killed at step ${at}: ${opened.did.join("; ")}`);
      await opened.close();
      assert.deepEqual(
        readdirSync(join(root, "images")).filter((name) => name.startsWith("berth.db")),
        ["berth.db"],
        "the database is closed in order",
      );
    }
    assert.ok(existsSync(join(prepared, "images", "berth.db")));
  });
}
