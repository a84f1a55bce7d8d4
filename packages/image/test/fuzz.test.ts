/**
 * A coverage-guided fuzzer of what reads archives and writes images. Whatever the bytes: an ImageError or a tree, soon and in
 * bounds; what is accepted has canonical paths only, is read back from the image as it was written, and where the programs are
 * here, fsck.erofs and the kernel agree, and GNU tar of what is well-formed. BERTH_IMAGE_FUZZ_SECONDS and BERTH_SEED make it longer and other; only then does GNU tar have a say, which reads strange headers in ways of its own.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { rmSync, statSync, writeFileSync } from "node:fs";
import { Session } from "node:inspector";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { ErofsTree } from "../src/erofs/writer.ts";
import { ImageError } from "../src/errors.ts";
import { applyLayer } from "../src/layers/apply.ts";
import { ByteReader } from "../src/layers/byte-reader.ts";
import { toName } from "../src/layers/paths.ts";
import { TarReader } from "../src/layers/tar.ts";
import { type Fields, ModelTree, type Shape, shapeOfImage } from "./support/model-tree.ts";
import { mutate, type Random, randomOf, shuffle } from "./support/mutate-tar.ts";
import { missingPrograms, scanImage } from "./support/scan.ts";
import { scratch } from "./support/store.ts";
import { archive, givenBack } from "./support/tar-writer.ts";

/** Without it a few hundred archives, the same in every run. */
const LONG = process.env["BERTH_IMAGE_FUZZ_SECONDS"];
const SECONDS = Number(LONG ?? 60);
const ARCHIVES = LONG === undefined ? 300 : Infinity;
const SEED = Number(process.env["BERTH_SEED"] ?? (LONG === undefined ? 1 : Date.now() % 2 ** 32));
const LIMITS = { entries: 5_000, bytes: 4 << 20 };
/** Of one archive, on a machine that is busy with other tests. */
const SLOW_MS = 30_000;
const BATCH = 16;
/** What others judge too takes a while: so many archives a run at most. */
const JUDGED = 60;

const SEEDS: readonly Buffer[] = [
  archive(
    { name: "d/", type: "5", mode: 0o755 },
    { name: "d/file", data: "content", pax: { "SCHILY.xattr.user.a": "b", mtime: "1.5" } },
    { name: "link", type: "2", link: "d" },
    { name: "hard", type: "1", link: "d/file" },
    { name: "null", type: "3", major: 1, minor: 3 },
    { name: "fifo", type: "6" },
  ),
  archive(
    { name: "a", data: Buffer.alloc(5000, "a") },
    { name: "d/.wh.x" },
    { name: "d/.wh..wh..opq" },
    { name: "b/", type: "5" },
  ),
  archive(
    {
      name: "s0",
      data: "12345",
      pax: { "GNU.sparse.map": "0,2,100000,3", "GNU.sparse.size": "200000", "GNU.sparse.numblocks": "2" },
    },
    {
      name: "s1",
      data: "x".repeat(10),
      pax: { path: "d/sparse", "GNU.sparse.map": "4096,10", "GNU.sparse.size": "9000000" },
    },
    {
      name: "s2",
      data: Buffer.concat([Buffer.from("1\n0\n5\n".padEnd(512, "\0")), Buffer.from("12345")]),
      pax: {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "one",
        "GNU.sparse.realsize": "70000",
      },
    },
  ),
];

/** GNU tar's own archives, where it is here. */
function madeByTar(t: TestContext): Buffer[] {
  if (missingPrograms("tar", "truncate") !== undefined) return [];
  const directory = scratch(t);
  execFileSync(
    "sh",
    [
      "-ec",
      `mkdir -p d/${"l".repeat(110)}; echo x >d/${"l".repeat(110)}/f; ln -s ${"t".repeat(120)} s; truncate -s 1M sparse; echo end >>sparse; echo v >v; ln v hard`,
    ],
    { cwd: directory },
  );
  return [["v7"], ["oldgnu", "--sparse"], ["gnu", "--sparse"], ["ustar"], ["posix", "--sparse"]].map(
    ([format = "", ...more]) =>
      execFileSync("tar", [
        "-C",
        directory,
        `--format=${format}`,
        ...more,
        "-cf",
        "-",
        ...(format === "v7" || format === "ustar" ? ["v", "hard"] : ["."]),
      ]),
  );
}

/** The ranges of the reader's and writer's code that ran since it was last asked: V8's own coverage. */
class Coverage implements Disposable {
  readonly #session = new Session();
  readonly #seen = new Set<string>();

  constructor() {
    this.#session.connect();
    this.#session.post("Profiler.enable");
    this.#session.post("Profiler.startPreciseCoverage", { callCount: false, detailed: true });
  }

  get size(): number {
    return this.#seen.size;
  }

  /** Whether something ran for the first time. */
  grown(): boolean {
    const before = this.#seen.size;
    this.#session.post("Profiler.takePreciseCoverage", (_, report) => {
      for (const { url, functions } of report.result) {
        if (!/\/src\/(layers|erofs)\//.test(url)) continue;
        for (const { ranges } of functions)
          for (const { startOffset, endOffset, count } of ranges)
            if (count > 0) this.#seen.add(`${url}:${startOffset}:${endOffset}`);
      }
    });
    return this.#seen.size > before;
  }

  [Symbol.dispose](): void {
    this.#session.disconnect();
  }
}

/** The tree, or undefined where the archive is refused as it should be. */
async function tryArchive(tar: Buffer, file: string, chunk: number): Promise<Shape | undefined> {
  rmSync(file, { force: true });
  async function* source(): AsyncGenerator<Uint8Array, void, undefined> {
    for (let at = 0; at < tar.length; at += chunk) yield* givenBack(tar.subarray(at, at + chunk));
  }
  const tree = new ModelTree(await ErofsTree.create(file));
  const began = performance.now();
  try {
    await applyLayer(new TarReader(new ByteReader(source())), tree, { limits: LIMITS });
    await tree.end(false);
  } catch (error) {
    await tree.abort();
    assert.ok(error instanceof ImageError, String((error as Error).stack));
    assert.ok(["InvalidImage", "LimitExceeded"].includes(error.code), `${error.code}: ${error.message}`);
    return undefined;
  }
  assert.ok(performance.now() - began < SLOW_MS, "takes no longer than its size asks for");
  assert.ok(
    statSync(file).blocks * 512 <= 2 * LIMITS.bytes + tar.length * 64 + (1 << 20),
    "takes no more room than its files",
  );
  const wanted = tree.shape();
  assert.deepEqual(shapeOfImage(file), wanted);
  return wanted;
}

const largest = (shape: Shape): number => Math.max(0, ...Object.values(shape).map(({ size }) => size ?? 0));

/** fsck.erofs and the kernel see the tree. Neither can be given files of terabytes to read. */
function judgeImage(t: TestContext, file: string, shape: Shape): void {
  if (largest(shape) > 64 << 20) return;
  if (missingPrograms("fsck.erofs") === undefined) {
    const { status, stdout, stderr } = spawnSync("fsck.erofs", ["--extract", file], { encoding: "utf8" });
    assert.equal(status, 0, `fsck.erofs: ${stdout}${stderr}`);
  }
  if (process.getuid?.() !== 0 || missingPrograms("unshare", "python3") !== undefined) return;
  const seen = scanImage(t, file);
  const brief = (path: string, { mode, uid, gid, mtime }: Record<string, unknown>): string =>
    JSON.stringify([path, mode, uid, gid, mtime]);
  const modeOf = ({ type, mode }: Fields): string => `0o${(((TYPES[type] as number) << 12) | mode).toString(8)}`;
  assert.deepEqual(
    new Set(Object.entries(seen).map(([path, entry]) => brief(path, entry))),
    new Set(Object.entries(shape).map(([path, entry]) => brief(path, { ...entry, mode: modeOf(entry) }))),
  );
}

const TYPES: Readonly<Record<string, number>> = { fifo: 1, character: 2, directory: 4, block: 6, file: 8, symlink: 10 };

/** GNU tar lists the same names, types and sizes, where it has nothing to complain of. */
async function judgeListing(tar: Buffer): Promise<void> {
  if (missingPrograms("tar") !== undefined) return;
  const { status, stdout, stderr } = spawnSync(
    "tar",
    ["-tvf", "-", "--numeric-owner", "--quoting-style=c", "--force-local"],
    {
      input: tar,
      encoding: "latin1",
      env: { LC_ALL: "C", PATH: process.env["PATH"] ?? "" },
    },
  );
  if (status !== 0 || stderr !== "") return;
  const theirs = stdout.split("\n").flatMap((line) => {
    const found = /^(.)\S+ +\S+ +(\S+) \S+ \S+ "((?:[^"\\]|\\.)*)"/.exec(line);
    if (found === null || found[1] === "V") return [];
    const [, letter = "", size = "", name = ""] = found;
    // A contiguous file is a file.
    const type = letter === "C" ? "-" : letter;
    return [`${type} ${type === "-" ? size : ""} ${unquoted(name).replace(/\/+$/, "")}`];
  });
  const ours: string[] = [];
  const reader = new TarReader(new ByteReader(once(tar)));
  for (let entry = await reader.next(); entry !== undefined; entry = await reader.next())
    ours.push(
      `${LETTERS[entry.type]} ${entry.type === "file" ? entry.size : ""} ${toName(entry.path).replace(/\/+$/, "")}`,
    );
  assert.deepEqual(ours, theirs, "as GNU tar lists it");
}

const LETTERS = { file: "-", directory: "d", symlink: "l", hardlink: "h", character: "c", block: "b", fifo: "p" };

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  yield bytes;
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r", a: "\x07", b: "\b", f: "\f", v: "\v" };
const unquoted = (text: string): string =>
  text.replaceAll(/\\([0-7]{3}|.)/g, (_, code: string) =>
    code.length === 3 ? String.fromCharCode(parseInt(code, 8)) : (ESCAPES[code] ?? code),
  );

async function withCulprit<T>(tar: Buffer, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const kept = join(tmpdir(), `berth-fuzz-${SEED}.tar.gz`);
    writeFileSync(kept, gzipSync(tar));
    throw new Error(`seed ${SEED}: the archive is kept at ${kept}: ${(error as Error).message}`, { cause: error });
  }
}

test(
  "archives of any bytes: refused, or the same tree to everybody",
  { timeout: (SECONDS + 120) * 1000 },
  async (t) => {
    const random: Random = randomOf(SEED);
    const whole = [...SEEDS, ...madeByTar(t)];
    const corpus = [...whole];
    const file = join(scratch(t), "image");
    using coverage = new Coverage();
    const heap = process.memoryUsage().rss;
    let [runs, accepted, judged] = [0, 0, 0];
    const end = performance.now() + SECONDS * 1000;
    const attempt = async (tar: Buffer): Promise<Shape | undefined> =>
      await withCulprit(tar, async () => await tryArchive(tar, file, 1 + random(3000)));
    const judge = async (tar: Buffer): Promise<void> => {
      const shape = await attempt(tar);
      if (shape === undefined || judged >= JUDGED * Math.max(1, SECONDS / 30) || performance.now() > end) return;
      judged++;
      await withCulprit(tar, async () => await Promise.resolve(judgeImage(t, file, shape)));
    };
    // What archives list that break the format is anybody's guess; of others it is not.
    const judgeOrder = async (tar: Buffer): Promise<void> => {
      if ((await attempt(tar)) !== undefined) await withCulprit(tar, async () => await judgeListing(tar));
    };
    const batch = async (archives: readonly Buffer[]): Promise<void> => {
      const taken: Buffer[] = [];
      for (const tar of archives) if ((await attempt(tar)) !== undefined) taken.push(tar);
      runs += archives.length;
      accepted += taken.length;
      if (coverage.grown()) {
        corpus.push(...archives);
        for (const tar of taken) await judge(tar);
      } else if (taken[0] !== undefined && random(8) === 0) await judge(taken[0]);
    };
    await batch(corpus.slice());
    for (const seed of whole) await judgeOrder(seed);
    const isOver = (): boolean => performance.now() >= end || runs >= ARCHIVES;
    while (!isOver()) {
      if (random(4) === 0) await judgeOrder(shuffle(whole, random));
      await batch(Array.from({ length: BATCH }, () => mutate(corpus, random)));
    }
    t.diagnostic(
      `seed ${SEED}: ${runs} archives, ${accepted} accepted, ${judged} judged, ${corpus.length} in the corpus, ${coverage.size} ranges`,
    );
    assert.ok(accepted > 0 && accepted < runs, `${accepted} of ${runs} accepted`);
    assert.ok(process.memoryUsage().rss - heap < 512 << 20, "memory stays in bounds");
  },
);
