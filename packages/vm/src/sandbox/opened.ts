/** A guest that is set up, whichever agent it has: as its machine's users see it. */
import type { AgentSandbox } from "../agent/sandbox.ts";
import { VmError } from "../errors.ts";
import { bosunRuntime } from "../guest/bosun/containers.ts";
import type { GuestRuntime } from "../guest/runtime.ts";
import type { Guest } from "./guest.ts";

export interface OpenedGuest {
  readonly runtime: GuestRuntime;
  /** Throws VmError Unsupported where the guest's agent is Kata's. */
  readonly guest: Guest;
  /** Resolves, with the reason, when its agent does not answer any more. */
  readonly lost: Promise<string>;
  /** Ends the connections. */
  close(): Promise<void>;
}

/** `machine`: its directory. */
export function openedBosun(machine: string, guest: Guest): OpenedGuest {
  return {
    runtime: bosunRuntime(machine, guest),
    guest,
    // A machine that hangs is found out by who asks it for something.
    lost: new Promise(() => undefined),
    close: () => guest.hand.close(),
  };
}

export function openedAgent(sandbox: AgentSandbox): OpenedGuest {
  return {
    runtime: sandbox.runtime,
    get guest(): Guest {
      throw new VmError(
        "Unsupported",
        "the guest's agent is Kata's, which carries out no plans; use a handler with berth's own guest image",
      );
    },
    lost: sandbox.lost,
    close: () => Promise.resolve(sandbox.close()),
  };
}
