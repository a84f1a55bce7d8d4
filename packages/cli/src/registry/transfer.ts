/** Calls of berthd that move layers, with their progress on the terminal. */
import type { berth } from "@berth/spec";
import { Failure } from "../failure.ts";
import { interruptible } from "../interrupt.ts";
import { type PullDisplay, pullDisplay, QUIET } from "../pull/progress.ts";
import type { Session } from "../session.ts";

export interface Transferred {
  /** Of a pull the image's id, of a push the digest at the registry. */
  readonly id: string;
  /** The full reference: "docker.io/library/busybox:latest". */
  readonly reference: string;
}

/** Shows what a call reports; resolves to its last message, which names the image. */
export async function followTransfer(
  updates: AsyncIterable<berth.PullProgress>,
  display: PullDisplay,
  what: string,
): Promise<Transferred> {
  let last: berth.PullProgress | undefined;
  try {
    for await (const progress of updates) {
      if (progress.imageId !== "") last = progress;
      else display.update(progress);
    }
  } finally {
    display.finish();
  }
  if (!last) throw new Failure(`berthd ended the ${what} without an image; see its log`);
  return { id: last.imageId, reference: last.reference };
}

/** As followTransfer, for a command of its own: Ctrl-C ends the call. */
export async function transfer(
  session: Session,
  what: string,
  quiet: boolean,
  call: (signal: AbortSignal) => AsyncIterable<berth.PullProgress>,
): Promise<Transferred> {
  const { shell } = session;
  using interrupt = interruptible(shell);
  try {
    return await followTransfer(call(interrupt.signal), quiet ? QUIET : pullDisplay(shell.stderr), what);
  } catch (error) {
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  }
}
