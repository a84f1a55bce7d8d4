/** What of node:fs the store uses: the calls that change what is on disk, at each of which a test kills it, and those that only look. */
export const CHANGES = {
  promises: ["rename", "mkdir", "rm", "chown", "chmod", "utimes", "writeFile", "copyFile"],
  sync: ["renameSync"],
  handle: ["write", "writeFile", "sync", "datasync", "truncate"],
} as const;

export const LOOKS: readonly string[] = [
  "open",
  "readFile",
  "readdir",
  "readlink",
  "lstat",
  "stat",
  "openSync",
  "closeSync",
  "readSync",
  "readdirSync",
  "readlinkSync",
  "lstatSync",
  "createReadStream",
  "constants",
];
