/**
 * Runs critest (cri-tools) in shards that can be resumed: what passed is not run again.
 *
 *     node scripts/critest-shards.ts --critest PROGRAM --results FILE [--shard N] [-- critest's own flags]
 *
 * FILE (JSON) has each spec's state as Ginkgo reports it, its seconds, and why it failed or skipped itself; it is
 * written after each shard. A table of it is written to standard output. Exit status: 1 where a spec has failed.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

interface Result {
  readonly state: string;
  readonly seconds: number;
  readonly why?: string;
}

/** Of Ginkgo's JSON report (github.com/onsi/ginkgo/v2/types, SpecReport), what is used here. */
interface SpecReport {
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeType: string;
  readonly LeafNodeText: string;
  readonly State: string;
  /** Nanoseconds. */
  readonly RunTime: number;
  readonly Failure?: { readonly Message: string };
}

type Results = Record<string, Result>;

const nameOf = ({ ContainerHierarchyTexts, LeafNodeText }: SpecReport): string =>
  [...(ContainerHierarchyTexts ?? []), LeafNodeText].join(" ");

/** For Go's regexp, which has no way to say that a string is literal in a flag. */
const literally = (text: string): string => text.replaceAll(/[\\.+*?()|[\]{}^$]/g, String.raw`\$&`);

/** One run of critest; its output is the user's, on standard error. */
async function critest(program: string, flags: readonly string[]): Promise<SpecReport[]> {
  const directory = await mkdtemp(join(tmpdir(), "critest-"));
  try {
    const file = join(directory, "report.json");
    const args = [...flags, `--ginkgo.json-report=${file}`, "--ginkgo.no-color"];
    const child = spawn(program, args, { cwd: directory, stdio: ["ignore", 2, 2] });
    await once(child, "exit");
    const suites = JSON.parse(await readFile(file, "utf8")) as { readonly SpecReports: readonly SpecReport[] }[];
    return suites.flatMap(({ SpecReports }) => SpecReports).filter(({ LeafNodeType }) => LeafNodeType === "It");
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function readResults(file: string): Promise<Results> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as Results;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw error;
  }
}

async function writeResults(file: string, results: Results): Promise<void> {
  await writeFile(`${file}.new`, `${JSON.stringify(results, undefined, 2)}\n`);
  await rename(`${file}.new`, file);
}

function resultOf({ State, RunTime, Failure }: SpecReport): Result {
  const seconds = Math.round(RunTime / 1e8) / 10;
  return { state: State, seconds, ...(Failure ? { why: Failure.Message.trim() } : {}) };
}

/** The runtime's own words, where Gomega shows a gRPC status in full. */
function inShort(why: string): string {
  const status = /^\s*Message: "(.*)",$/m.exec(why)?.[1];
  return status ?? why.split("\n", 1)[0] ?? "";
}

const cell = (text: string): string => text.replaceAll("|", String.raw`\|`);

function table(results: Results): string {
  const rows = Object.entries(results).map(
    ([name, { state, seconds, why = "" }]) => `| ${cell(name)} | ${state} | ${seconds} s | ${cell(inShort(why))} |`,
  );
  return ["| spec | state | time | why |", "|---|---|---|---|", ...rows].join("\n");
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    options: {
      critest: { type: "string" },
      results: { type: "string" },
      shard: { type: "string", default: "8" },
    },
    allowPositionals: true,
  });
  const { critest: program, results: file } = values;
  const size = Number(values.shard);
  if (program === undefined || file === undefined) throw new Error("--critest PROGRAM and --results FILE are needed");
  if (!(Number.isInteger(size) && size > 0)) throw new Error(`--shard ${values.shard}: a number of specs is needed`);
  const results = await readResults(file);
  const all = await critest(program, [...positionals, "--ginkgo.dry-run"]);
  const left = all
    .filter(({ State }) => State === "passed")
    .map(nameOf)
    .filter((name) => results[name]?.state !== "passed");
  for (let start = 0; start < left.length; start += size) {
    const shard = left.slice(start, start + size);
    process.stderr.write(`specs ${start + 1} to ${start + shard.length} of ${left.length} that have not passed\n`);
    const focus = shard.map((name) => `--ginkgo.focus=${literally(name)}$`);
    const ran = await critest(program, [...positionals, ...focus]);
    for (const report of ran) if (shard.includes(nameOf(report))) results[nameOf(report)] = resultOf(report);
    await writeResults(file, results);
  }
  process.stdout.write(`${table(results)}\n`);
  if (Object.values(results).some(({ state }) => state !== "passed" && state !== "skipped")) process.exitCode = 1;
}

await main();
