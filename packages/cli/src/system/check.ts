/** `berth system fsck`: the image store, verified. */
import type { Command } from "commander";
import { Failure } from "../failure.ts";
import { interruptible } from "../interrupt.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";

interface Flags {
  readonly repair?: boolean;
  readonly quiet?: boolean;
}

export const checkCommand = (command: Command, session: Session): Command =>
  command
    .command("fsck")
    .summary("verify every image in the store")
    .description(
      "Reads every blob and compares it with its digest, unpacks every layer once more and compares it with the one in use, and finds files that belong to nothing. Exit code 0: all is well or was repaired; 1: something is wrong.",
    )
    .option("--repair", "put right what can be: damaged layers are unpacked again, damaged blobs and strays removed")
    .option("-q, --quiet", "print problems only")
    .action((flags: Flags) => check(session, flags));

async function check(session: Session, { repair = false, quiet = false }: Flags): Promise<void> {
  const { shell } = session;
  const client = await session.connect();
  using interrupt = interruptible(shell);
  let [checked, problems, left] = [0, 0, 0];
  try {
    for await (const message of client.berth.check({ repair }, { signal: interrupt.signal })) {
      if (message.checking !== "") {
        checked++;
        continue;
      }
      const { kind, id, problem, repair: done } = message;
      problems++;
      if (done === "") left++;
      printLine(
        shell,
        `${[kind, id].filter((part) => part !== "").join(" ")}: ${problem}${done === "" ? "" : `; ${done}`}`,
      );
    }
  } catch (error) {
    throw interrupt.signal.aborted ? interrupt.signal.reason : error;
  }
  if (left > 0)
    throw new Failure(
      `${left} of ${problems} problems are left${repair ? "" : ": berth system fsck --repair puts right what can be"}`,
    );
  if (!quiet)
    printLine(
      shell,
      `checked ${checked} blobs and layers: ${problems === 0 ? "all is well" : `${problems} problems repaired`}`,
    );
}
