/**
 * Enforces packages/boundaries.json: who may import whom, what only one file may import, and how long a file may be.
 *
 *   check-boundaries.ts [ROOT]    ROOT: the checkout to look at; this one
 */
import { existsSync, globSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { parseSync } from "oxc-parser";

interface Rules {
  packages: Record<string, { may: string[]; mayInTests?: string[]; builtins?: string[] }>;
  onlyIn: Record<string, { files: string[]; why: string }>;
  maxLines: number;
  /** Path to the reason. */
  longFiles: Record<string, string>;
}
interface Manifest {
  exports?: Record<string, string>;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
}

const root = resolve(process.argv[2] ?? join(import.meta.dirname, ".."));
const rules = readJson<Rules>("packages/boundaries.json");
const rootManifest = readJson<Manifest>("package.json");
const problems: string[] = [];

checkPackages();
for (const file of sources("packages/*/{src,test}/**/*.ts", "{scripts,tests,bench}/**/*.ts")) checkImports(file);
checkLengths(sources("packages/*/{src,test}/**/*.{ts,c,h}", "packages/*/*.ts", "{scripts,tests,bench}/**/*"));
for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exit(1);

function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(join(root, path), "utf8")) as T;
}

/** Generated code is not ours to shape. */
function sources(...patterns: string[]): string[] {
  return globSync(patterns, { cwd: root, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter((file) => !/(^|\/)(node_modules|gen)\//.test(file))
    .sort();
}

function checkPackages(): void {
  const order = Object.keys(rules.packages);
  for (const folder of globSync("packages/*/package.json", { cwd: root }).map(dirname)) {
    const name = folder.slice("packages/".length);
    const rule = rules.packages[name];
    if (!rule) {
      problems.push(`${folder}: not in packages/boundaries.json`);
      continue;
    }
    for (const upper of rule.may)
      if (order.indexOf(upper) >= order.indexOf(name))
        problems.push(`packages/boundaries.json: ${name} may use ${upper}, which is not above it`);
    for (const dependency of Object.keys(manifestOf(name).dependencies ?? {})) {
      const upper = /^@berth\/(.*)$/.exec(dependency)?.[1];
      if (upper !== undefined && !rule.may.includes(upper))
        problems.push(`${folder}/package.json: ${name} may not depend on ${dependency}`);
    }
  }
}

function manifestOf(name: string): Manifest {
  return readJson<Manifest>(`packages/${name}/package.json`);
}

function checkImports(file: string): void {
  const [, name, part] = /^packages\/([^/]+)\/(src|test)\//.exec(file) ?? [];
  for (const specifier of importsOf(file)) {
    const problem = judge(file, name, part === "src", specifier);
    if (problem !== undefined) problems.push(`${file}: imports ${specifier}: ${problem}`);
  }
}

function importsOf(file: string): Set<string> {
  const text = readFileSync(join(root, file), "utf8");
  const { module, program, errors } = parseSync(file, text);
  for (const error of errors) problems.push(`${file}: ${error.message}`);
  const found = new Set<string>(module.staticImports.map((item) => item.moduleRequest.value));
  for (const entry of module.staticExports.flatMap((item) => item.entries))
    if (entry.moduleRequest) found.add(entry.moduleRequest.value);
  visit(program, (node) => {
    const source = node["source"] as { type?: string; value?: unknown } | undefined;
    if ((node["type"] === "ImportExpression" || node["type"] === "TSImportType") && typeof source?.value === "string")
      found.add(source.value);
  });
  return found;
}

function visit(node: unknown, see: (node: Record<string, unknown>) => void): void {
  if (Array.isArray(node)) for (const item of node) visit(item, see);
  else if (typeof node === "object" && node !== null) {
    see(node as Record<string, unknown>);
    for (const value of Object.values(node)) visit(value, see);
  }
}

/** `name`: the package the file is in, if any; `shipped`: whether the file is in its src. */
function judge(file: string, name: string | undefined, shipped: boolean, specifier: string): string | undefined {
  if (specifier.startsWith(".")) return judgeRelative(file, name, shipped, specifier);
  const only = rules.onlyIn[specifier];
  if (only && shipped && !only.files.includes(file)) return `only ${only.files.join(", ")} may: ${only.why}`;
  if (specifier.startsWith("node:")) {
    const builtins = name === undefined || !shipped ? undefined : rules.packages[name]?.builtins;
    return builtins && !builtins.includes(specifier)
      ? `${name} is pure: of Node's modules it may use ${builtins.join(", ")}`
      : undefined;
  }
  if (builtinModules.includes(specifier)) return `write node:${specifier}`;
  const ours = /^@berth\/([^/]+)(\/.*)?$/.exec(specifier);
  if (ours) return judgeRoom(name, shipped, ours[1] ?? "", ours[2]);
  const dependency = specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
  const declared = {
    ...(name === undefined ? {} : manifestOf(name).dependencies),
    ...(shipped ? {} : rootManifest.devDependencies),
  };
  return dependency in declared
    ? undefined
    : `not declared in ${name === undefined ? "package.json" : `packages/${name}/package.json`}`;
}

function judgeRelative(
  file: string,
  name: string | undefined,
  shipped: boolean,
  specifier: string,
): string | undefined {
  const target = resolve(root, dirname(file), specifier);
  if (!existsSync(target)) return "no such file";
  if (name === undefined)
    return relative(root, target).startsWith("packages/") ? "import a package by its name" : undefined;
  const home = join(root, "packages", name, shipped ? "src" : "");
  return target.startsWith(`${home}/`) ? undefined : `leaves ${relative(root, home)}`;
}

function judgeRoom(
  name: string | undefined,
  shipped: boolean,
  upper: string,
  deep: string | undefined,
): string | undefined {
  if (deep !== undefined && !(rules.packages[upper] && `.${deep}` in (manifestOf(upper).exports ?? {})))
    return `import @berth/${upper}: a package has one public face, and what else its package.json exports`;
  if (name === undefined || name === upper) return undefined;
  if (!shipped && rules.packages[name]?.mayInTests?.includes(upper)) return undefined;
  if (!rules.packages[name]?.may.includes(upper))
    return `${name} may use ${rules.packages[name]?.may.join(", ") || "no other package"} (packages/boundaries.json)`;
  return `@berth/${upper}` in (manifestOf(name).dependencies ?? {})
    ? undefined
    : `not declared in packages/${name}/package.json`;
}

function checkLengths(files: string[]): void {
  const long = files.filter((file) => readFileSync(join(root, file), "utf8").split("\n").length - 1 > rules.maxLines);
  for (const file of long)
    if (!rules.longFiles[file])
      problems.push(
        `${file}: more than ${rules.maxLines} lines: split it, or give the reason in packages/boundaries.json, longFiles`,
      );
  for (const file of Object.keys(rules.longFiles))
    if (!long.includes(file)) problems.push(`packages/boundaries.json: longFiles: ${file} is not long, or not there`);
}
