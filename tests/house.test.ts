/** The house itself: launchers, set-up, and that the checks find what they are there to find. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, suite, test } from "node:test";

const checkout = join(import.meta.dirname, "..");
const scratch = mkdtempSync(join(tmpdir(), "berth-house-"));
after(() => rmSync(scratch, { recursive: true }));

function run(
  program: string,
  args: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: "utf8", env: { ...process.env, ...env } });
  return { status, stdout, stderr };
}

function write(root: string, files: Readonly<Record<string, string>>): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
}

/** A checkout with the real launchers, and a program that says how it was started. */
function launchable(name: string, nodeModules = true): string {
  const root = join(scratch, name);
  mkdirSync(root);
  cpSync(join(checkout, "bin"), join(root, "bin"), { recursive: true });
  cpSync(join(checkout, "scripts/launch.sh"), join(root, "scripts/launch.sh"));
  const program = `console.log(JSON.stringify({ args: process.argv.slice(2), node: process.execPath, cache: process.env.NODE_COMPILE_CACHE }));`;
  write(root, { "packages/cli/src/main.ts": program, "packages/daemon/src/main.ts": program });
  if (nodeModules) symlinkSync(join(checkout, "node_modules"), join(root, "node_modules"));
  return root;
}

suite("launchers", () => {
  test("run the carried Node, through links and from the PATH, with arguments as they are", () => {
    const root = launchable("linked");
    symlinkSync(join(root, "bin/berth"), join(scratch, "berth"));
    for (const [program, env] of [
      [join(root, "bin/berth"), {}],
      [join(scratch, "berth"), {}],
      ["berth", { PATH: `${scratch}:/usr/bin:/bin` }],
    ] as const) {
      const { status, stdout, stderr } = run(program, ["a", "b  c", ""], env);
      assert.equal(status, 0, stderr);
      const said = JSON.parse(stdout) as { args: string[]; node: string };
      assert.deepEqual(said.args, ["a", "b  c", ""]);
      assert.match(said.node, /node-linux-(x64|arm64)\/bin\/node$/);
    }
  });

  test("without a set-up say what to run", () => {
    const root = launchable("bare", false);
    for (const name of ["berth", "berthd"]) {
      const { status, stderr } = run(join(root, "bin", name));
      assert.equal(status, 127);
      assert.match(stderr, /^berth: not set up: .*; run \.\/quickstart or scripts\/setup there$/m);
    }
  });
});

suite("scripts/setup", () => {
  test("does and says nothing on a machine that is set up", () => {
    const { status, stdout, stderr } = run(join(checkout, "scripts/setup"));
    assert.deepEqual([status, stdout, stderr], [0, "", ""]);
  });

  test("refuses an option it does not know", () => {
    assert.equal(run(join(checkout, "scripts/setup"), ["--fast"]).status, 2);
  });
});

suite("the boundary check", () => {
  const rules = {
    packages: { low: { may: [], builtins: ["node:util"] }, high: { may: ["low"] } },
    onlyIn: { "node:child_process": { files: ["packages/high/src/spawn.ts"], why: "it forks" } },
    maxLines: 5,
    longFiles: {},
  };
  const house = {
    "package.json": `{"devDependencies":{"tool":"1.0.0"}}`,
    "packages/boundaries.json": JSON.stringify(rules),
    "packages/low/package.json": `{"exports":{".":"./src/index.ts","./part":"./src/part.ts"}}`,
    "packages/low/src/index.ts": `import "node:util";`,
    "packages/low/src/part.ts": "",
    "packages/high/package.json": `{"dependencies":{"@berth/low":"1","lib":"1"}}`,
    "packages/high/src/index.ts": `/** import "@berth/none" */ export * from "@berth/low"; import "@berth/low/part"; import "lib/part";`,
    "packages/high/src/spawn.ts": `import "node:child_process";`,
    "packages/high/test/a.test.ts": `import "node:child_process"; import "tool"; import "../src/index.ts"; import "@berth/high";`,
    "tests/all.test.ts": `import "@berth/high"; import "tool";`,
  };
  const check = (name: string, changes: Readonly<Record<string, string>>) => {
    const root = join(scratch, `house-${name}`);
    write(root, { ...house, ...changes });
    return run(process.execPath, [join(checkout, "scripts/check-boundaries.ts"), root]);
  };

  test("passes a house in order", () => {
    const { status, stderr } = check("order", {});
    assert.deepEqual([status, stderr], [0, ""]);
  });

  const violations: [string, Record<string, string>, RegExp][] = [
    [
      "upward",
      { "packages/low/src/a.ts": `import "@berth/high";` },
      /low\/src\/a\.ts: imports @berth\/high: low may use no other package/,
    ],
    ["deep", { "packages/high/src/a.ts": `import "@berth/low/src/index.ts";` }, /one public face/],
    ["type", { "packages/low/src/a.ts": `export type T = import("@berth/high").T;` }, /imports @berth\/high/],
    ["dynamic", { "packages/low/src/a.ts": `await import("@berth/high");` }, /imports @berth\/high/],
    ["relative", { "packages/high/src/a.ts": `import "../../low/src/index.ts";` }, /leaves packages\/high\/src/],
    [
      "spawn",
      { "packages/high/src/a.ts": `import "node:child_process";` },
      /only packages\/high\/src\/spawn\.ts may: it forks/,
    ],
    ["impure", { "packages/low/src/a.ts": `import "node:fs";` }, /low is pure/],
    ["bare", { "packages/high/src/a.ts": `import "fs";` }, /write node:fs/],
    ["undeclared", { "packages/high/src/a.ts": `import "other";` }, /not declared in packages\/high\/package\.json/],
    ["dev-only", { "packages/high/src/a.ts": `import "tool";` }, /not declared/],
    ["missing", { "packages/high/src/a.ts": `import "./gone.ts";` }, /no such file/],
    ["long", { "packages/high/src/a.c": "\n".repeat(6) }, /a\.c: more than 5 lines/],
    [
      "manifest",
      { "packages/low/package.json": `{"exports":{"./part":"./src/part.ts"},"dependencies":{"@berth/high":"1"}}` },
      /low may not depend on @berth\/high/,
    ],
    ["outside", { "tests/b.test.ts": `import "../packages/low/src/index.ts";` }, /import a package by its name/],
  ];
  for (const [name, changes, message] of violations) {
    test(`finds: ${name}`, () => {
      const { status, stderr } = check(name, changes);
      assert.equal(status, 1);
      assert.match(stderr, message);
      assert.equal(stderr.trim().split("\n").length, 1, stderr);
    });
  }
});
