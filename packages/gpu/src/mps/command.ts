/** `berth-mps-control-daemon`'s command line. */
import { readFileSync } from "node:fs";
import { parseFlags, present, valued } from "../flags.ts";
import { parseSettings } from "../plugin/nvidia/file.ts";
import { DEFAULT_FLAGS, type Flags, MIG_STRATEGIES, type NvidiaSettings } from "../plugin/nvidia/settings.ts";

export interface MpsCommand {
  /** `mount-shm` makes what the daemons' pods need first, and ends. */
  readonly verb: "run" | "mount-shm";
  readonly logLevel: string;
  readonly mpsRoot: string;
  /** Throws CdiError, and the error of a file that cannot be read. */
  readSettings(warn: (text: string) => void): NvidiaSettings;
}

const LEVELS = ["debug", "info", "warn", "error"];

export function parseMpsCommand(argv: readonly string[]): MpsCommand {
  const about =
    "Runs an MPS control daemon for each resource that is shared by MPS. With mount-shm: mounts their shared memory.";
  const options = [
    valued("config-file", "the device plugin's", "file"),
    valued("mig-strategy", "how MIG devices are offered").choices(MIG_STRATEGIES),
    valued("mps-root-ctr-path", "where the daemons' files are", "dir"),
    valued("log-level", "how much is logged", "level").choices(LEVELS).default("info"),
  ];
  const mounts = argv[0] === "mount-shm";
  const { at } = parseFlags("berth-mps-control-daemon", about, options, mounts ? argv.slice(1) : argv);
  const given = present({
    migStrategy: at<Flags["migStrategy"]>("migStrategy"),
    mpsContainerRoot: at<string>("mpsRootCtrPath"),
  }) as Partial<Flags>;
  const file = at<string>("configFile");
  return {
    verb: mounts ? "mount-shm" : "run",
    logLevel: at<string>("logLevel") ?? "info",
    mpsRoot: given.mpsContainerRoot ?? DEFAULT_FLAGS.mpsContainerRoot,
    readSettings: (warn) => {
      const { flags, sharing, imex, warnings } = parseSettings(
        file ? readFileSync(file, "utf8") : "version: v1\n",
        file,
      );
      for (const warning of warnings) warn(warning);
      return { flags: { ...DEFAULT_FLAGS, ...flags, ...given }, sharing, imex };
    },
  };
}
