/** berthd, but it dies by SIGKILL when the step named by DIE_AT begins: what a crash at that moment leaves behind. */
import { assemble, parseOptions } from "@berth/daemon";
import { silent } from "@berth/cri";
import { checkout } from "./daemon.ts";

const target = process.env["DIE_AT"];
const options = parseOptions(process.argv.slice(2), { version: "test", bosun: `${checkout}/.build/native/bosun` });
await assemble({
  options,
  version: "test",
  log: silent,
  onStep: (operation, step) => {
    if (`${operation}:${step}` === target) process.kill(process.pid, "SIGKILL");
  },
});
console.log("berthd is ready");
