/**
 * Adds to package-lock.json the optional packages of other platforms that npm has left out. npm drops an optional package
 * that its registry cannot show (a mirror may lack those nobody there needs), and `npm ci` then refuses the lock file
 * everywhere. Run it after `npm install`; it says what it added.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

interface Entry {
  version?: string;
  optional?: boolean;
  dev?: boolean;
  os?: string[];
  cpu?: string[];
  libc?: string[];
  optionalDependencies?: Record<string, string>;
}

const path = join(import.meta.dirname, "..", "package-lock.json");
const lock = JSON.parse(readFileSync(path, "utf8")) as { packages: Record<string, Entry> };
const added: string[] = [];
for (const owner of Object.values(lock.packages)) {
  for (const [name, version] of Object.entries(owner.optionalDependencies ?? {})) {
    if (lock.packages[`node_modules/${name}`]) continue;
    lock.packages[`node_modules/${name}`] = {
      version,
      ...platformOf(name),
      ...(owner.dev ? { dev: true } : {}),
      optional: true,
    };
    added.push(`${name}@${version}`);
  }
}
const keys = Object.keys(lock.packages).sort((a, b) => a.localeCompare(b, "en"));
lock.packages = Object.fromEntries(keys.map((key) => [key, lock.packages[key] ?? {}]));
if (added.length > 0) writeFileSync(path, `${JSON.stringify(lock, null, 2)}\n`);
console.log(added.length > 0 ? `added ${added.join(", ")}` : "package-lock.json is complete");

/** Such packages are named after what they run on: binding-linux-arm64-musl, buf-win32-x64. */
function platformOf(name: string): Pick<Entry, "os" | "cpu" | "libc"> {
  const match =
    /(android|darwin|freebsd|linux|netbsd|openbsd|openharmony|sunos|win32)-([a-z0-9]+)(?:-(musl|gnu))?/.exec(name);
  if (!match) throw new Error(`${name}: cannot tell its platform from its name; add it to package-lock.json by hand`);
  const [, os = "", cpu = "", libc] = match;
  const known = cpu === "aarch64" ? "arm64" : cpu.startsWith("armv") ? "arm" : cpu;
  return { os: [os], cpu: [known], ...(libc ? { libc: [libc === "gnu" ? "glibc" : libc] } : {}) };
}
