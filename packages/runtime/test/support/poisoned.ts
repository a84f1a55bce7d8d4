/**
 * berth-runc's decider with one step that fails, for `bosun runc`: BERTH_TEST_FAIL is the index of the order before which the plan is
 * poisoned, or "write", where state.json cannot be written.
 */
import { Front, type Launched, type LaunchOptions, type Order, type Plan } from "@berth/kernel";
import { run } from "../../src/command/run.ts";
import { StateDirectory } from "../../src/state/record.ts";

const failing = process.env.BERTH_TEST_FAIL ?? "";
const poison: Order = { order: "close", args: { slot: 4000 }, because: "the test" };

function poisoned(plan: Plan): Plan {
  const { orders } = plan;
  return { orders: [...orders.slice(0, Number(failing)), poison, ...orders.slice(Number(failing))] };
}

if (failing === "write") {
  StateDirectory.prototype.write = () => {
    throw Object.assign(new Error("ENOSPC: state.json: no space left on device"), { code: "ENOSPC" });
  };
} else {
  const launch: (this: Front, request: LaunchOptions) => Launched = Reflect.get(Front.prototype, "launch");
  const release: (this: Front, plan: Plan) => void = Reflect.get(Front.prototype, "release");
  Front.prototype.launch = function launchPoisoned(request) {
    return launch.call(this, { ...request, plan: poisoned(request.plan) });
  };
  Front.prototype.release = function releasePoisoned(plan) {
    release.call(this, poisoned(plan));
  };
}

process.exitCode = await run(process.argv.slice(2));
