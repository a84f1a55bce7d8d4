/**
 * Keeps the documents true: every ```ts example of a README runs and exits 0, every link leads somewhere, and every
 * dependency has its line in docs/dependencies.md. With paths as arguments only those documents' examples run.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, resolve } from "node:path";

const root = join(import.meta.dirname, "..");
const EXAMPLE_LIMIT_MS = 60_000;
const problems: string[] = [];

interface Example {
  /** As in "packages/spec/README.md:12". */
  readonly at: string;
  readonly code: string;
}

const documents = globSync(["*.md", "docs/**/*.md", "packages/*/*.md", "bench/**/*.md"], { cwd: root }).sort();
const chosen = process.argv.slice(2);
for (const folder of globSync("packages/*/package.json", { cwd: root }).map(dirname)) {
  if (!documents.includes(`${folder}/README.md`)) problems.push(`${folder}: no README.md`);
}
for (const document of documents) checkLinks(document);
checkDependencies();
await runAll(
  (chosen.length > 0 ? documents.filter((document) => chosen.includes(document)) : documents).flatMap(examplesOf),
);
for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exit(1);

function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

function examplesOf(document: string): Example[] {
  const text = read(document);
  return [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map((match) => ({
    at: `${document}:${text.slice(0, match.index).split("\n").length}`,
    code: match[1] ?? "",
  }));
}

async function runAll(examples: Example[]): Promise<void> {
  const folder = join(root, ".build", `examples-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  try {
    const queue = examples.entries();
    const worker = async () => {
      for (const [index, example] of queue) await runOne(join(folder, `${index}.ts`), example);
    };
    await Promise.all(Array.from({ length: availableParallelism() }, worker));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(`${examples.length} examples run`);
}

async function runOne(file: string, example: Example): Promise<void> {
  writeFileSync(file, example.code);
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", file], {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: EXAMPLE_LIMIT_MS,
  });
  const output = collect(child);
  const ending = await new Promise<string>((settle) =>
    child.on("close", (code, signal) => settle(signal ? `ended by ${signal}` : `exit status ${code}`)),
  );
  if (ending !== "exit status 0")
    problems.push(
      `${example.at}: the example fails (${ending}):\n${output().replaceAll(file, example.at).trimEnd().replaceAll(/^/gm, "    ")}`,
    );
}

function collect(child: ChildProcess): () => string {
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  return () => text;
}

function checkLinks(document: string): void {
  const prose = read(document)
    .replaceAll(/^```.*?^```$/gms, "")
    .replaceAll(/`[^`\n]*`/g, "");
  for (const [, target = ""] of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(target)) continue;
    const [path = "", anchor] = target.split("#");
    const file = path === "" ? join(root, document) : resolve(root, dirname(document), path);
    if (!existsSync(file)) problems.push(`${document}: links to ${target}, which is not there`);
    else if (anchor !== undefined && file.endsWith(".md") && !anchorsOf(file).has(anchor))
      problems.push(`${document}: links to ${target}, but there is no such heading`);
  }
}

/** As forges make them: lower case, spaces to dashes, other signs left out. */
function anchorsOf(file: string): Set<string> {
  const headings = readFileSync(file, "utf8").matchAll(/^#+ (.*)$/gm);
  return new Set(
    [...headings].map(([, title = ""]) =>
      title
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    ),
  );
}

function checkDependencies(): void {
  if (!existsSync(join(root, "docs/dependencies.md"))) return void problems.push("docs/dependencies.md: missing");
  const lines = read("docs/dependencies.md").split("\n");
  const used = new Set<string>();
  for (const manifest of ["package.json", ...globSync("packages/*/package.json", { cwd: root })]) {
    const { dependencies, devDependencies, optionalDependencies } = JSON.parse(read(manifest)) as Record<
      string,
      Record<string, string> | undefined
    >;
    for (const name of Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies }))
      if (!name.startsWith("@berth/")) used.add(name);
  }
  for (const name of used)
    if (!lines.some((line) => line.startsWith(`| \`${name}\` |`)))
      problems.push(`docs/dependencies.md: no line "| \`${name}\` | …"`);
  for (const line of lines) {
    const name = /^\| `([^`]+)` \|/.exec(line)?.[1];
    if (name !== undefined && !used.has(name)) problems.push(`docs/dependencies.md: ${name} is no dependency`);
  }
}
