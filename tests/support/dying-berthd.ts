/** berthd, but it dies by SIGKILL when the step named by DIE_AT begins: what a crash at that moment leaves behind. */
import { assemble, EMPTY, parseCommandLine, settingsOf } from "@berth/daemon";
import { silent } from "@berth/cri";
import { checkout } from "./daemon.ts";

const target = process.env["DIE_AT"];
const { flags } = parseCommandLine(process.argv.slice(2), "test");
const { settings } = settingsOf(EMPTY, flags, `${checkout}/.build/native/bosun`);
await assemble({
  settings,
  version: "test",
  log: silent,
  onStep: (operation, step) => {
    if (`${operation}:${step}` === target) process.kill(process.pid, "SIGKILL");
  },
});
console.log("berthd is ready");
