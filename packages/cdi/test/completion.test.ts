/** The scripts for shells: bash's is run, the others' are read by their shell where it is installed. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { cdi } from "../src/program.ts";

async function script(...args: string[]): Promise<string> {
  let stdout = "";
  const code = await cdi(["completion", ...args], {
    stdout: { write: (text: string) => (stdout += text) },
    stderr: process.stderr,
    stdin: process.stdin,
  });
  assert.equal(code, 0);
  return stdout;
}

test("bash: commands, their other names, flags of a command, and none of these behind a flag's value", async () => {
  const own = await script("bash");
  const completed = (...words: string[]): string[] => {
    const line = words.map((word) => `'${word}'`).join(" ");
    const body = `COMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _cdi; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const { status, stdout, stderr } = spawnSync("bash", ["-c", `${own}\n${body}`], { encoding: "utf8" });
    assert.deepEqual([status, stderr], [0, ""]);
    return stdout.split("\n").filter((word) => word !== "");
  };
  assert.deepEqual(completed("cdi", "dev"), ["devices", "devs", "dev"]);
  assert.deepEqual(completed("cdi", "-d", "/x", "val"), ["validate"]);
  assert.deepEqual(completed("cdi", "-d", "devices", "vend"), ["vendors"]);
  assert.deepEqual(completed("cdi", "devs", "--"), [
    "--verbose",
    "--output",
    "--help",
    "--spec-dirs",
    "--schema",
    "--help",
  ]);
  assert.deepEqual(completed("cdi", "validate", "--o"), []);
});

for (const [shell, check] of [
  ["zsh", ["zsh", "-n"]],
  ["fish", ["fish", "--no-execute"]],
  ["powershell", ["pwsh", "-NoProfile", "-Command", "-"]],
] as const) {
  const [program, ...args] = check;
  const isThere = spawnSync(program, ["--version"]).status === 0;
  test(`${shell}: every command and flag, with and without what they mean`, async (t) => {
    const [full, bare] = [await script(shell), await script(shell, "--no-descriptions")];
    for (const word of ["classes", "devs", "inject", "monitor", "completion", "spec-dirs", "output"])
      assert.ok(full.includes(word) && bare.includes(word), word);
    assert.ok(full.includes("List CDI cache errors") && !bare.includes("List CDI cache errors"));
    if (!isThere) return t.diagnostic(`${program} is not installed: the script is not read by it`);
    const { status, stderr } = spawnSync(program, args, { input: full, encoding: "utf8" });
    assert.equal(status, 0, stderr);
  });
}
