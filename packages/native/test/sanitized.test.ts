/** The whole suite of orders once more, against bosun built with AddressSanitizer and UndefinedBehaviorSanitizer. */
import { execFile, execFileSync, spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { build, built } from "./bosun.ts";

const ORDERS_SUITE =
  /^(plan|file|mount|mount-inside|namespace|process|container|hook|spec|machine|channel|guest-process)\.test\.ts$/;

test("the orders under sanitizers", { timeout: 600_000 }, async (t) => {
  if (process.env["BERTH_BOSUN"] !== undefined) return t.skip("BERTH_BOSUN names another build");
  if (spawnSync("clang", ["--version"]).error !== undefined) return t.skip("clang is not installed");
  execFileSync(build, ["--sanitize"]);
  const files = readdirSync(import.meta.dirname)
    .filter((name) => ORDERS_SUITE.test(name))
    .map((name) => join(import.meta.dirname, name));
  // A leak is looked for by tracing the process at its end, which plans make impossible in many ways.
  const env = {
    ...process.env,
    BERTH_BOSUN: join(built, "bosun-asan"),
    ASAN_OPTIONS: "detect_leaks=0",
    NODE_TEST_CONTEXT: undefined,
  };
  try {
    await promisify(execFile)(process.execPath, ["--test", "--test-reporter=spec", ...files], {
      env,
      maxBuffer: 1 << 26,
    });
  } catch (error) {
    const { stdout = "" } = error as { stdout?: string };
    throw new Error(
      `the suite fails against bosun-asan:\n${stdout
        .split("\n")
        .filter((line) => !/^\s*(✔|ℹ)/.test(line))
        .join("\n")}`,
      { cause: error },
    );
  }
});
