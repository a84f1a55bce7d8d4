/** berthd, but it dies by SIGKILL when the step named by DIE_AT begins: what a crash at that moment leaves behind. */
import { assemble, EMPTY, parseCommandLine, readDocument, settingsOf } from "@berth/daemon";
import { silent } from "@berth/cri";
import { checkout } from "./daemon.ts";

const target = process.env["DIE_AT"];
const { flags } = parseCommandLine(process.argv.slice(2), "test");
const document = flags.config === undefined ? EMPTY : await readDocument(flags.config);
const { settings } = settingsOf(document, flags, `${checkout}/.build/native/bosun`);
await assemble({
  settings,
  version: "test",
  log: silent,
  onStep: (operation, step) => {
    if (`${operation}:${step}` === target) process.kill(process.pid, "SIGKILL");
  },
});
console.log("berthd is ready");
