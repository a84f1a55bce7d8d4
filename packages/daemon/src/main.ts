/** berthd: the daemon the kubelet talks to. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { configCommand } from "./config/command.ts";
import { parseCommandLine } from "./options.ts";

// What bin/berthd sets for this program is no business of the programs that it starts.
delete process.env["NODE_COMPILE_CACHE"];
for (const name of Object.keys(process.env)) if (name.startsWith("MALLOC_")) delete process.env[name];

const checkout = fileURLToPath(new URL("../../..", import.meta.url)).replace(/\/$/, "");
const { version } = JSON.parse(readFileSync(`${checkout}/package.json`, "utf8")) as { version: string };
const invocation = parseCommandLine(process.argv.slice(2), version);

if (invocation.config) {
  process.exitCode = await configCommand(invocation, {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
  });
} else {
  const { runDaemon } = await import("./run.ts");
  await runDaemon({ flags: invocation.flags, version, bosun: `${checkout}/.build/native/bosun` });
}
