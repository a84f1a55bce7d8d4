/** A nvidia-cuda-mps-control that only says what it was told. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface FakeMps {
  /** To be first in PATH. */
  readonly bin: string;
  /** "DIRECTORY COMMAND" for each command that a daemon took, its start among them. */
  told(): string[];
  /** Whether daemons may start. */
  mayStart(may: boolean): void;
}

const PROGRAM = `#!/bin/sh
daemon=$CUDA_MPS_PIPE_DIRECTORY/control
if [ "$1" = -d ]; then
  if [ -e "$(dirname "$0")/refused" ]; then echo "no CUDA here" >&2; exit 1; fi
  if [ -e "$daemon" ]; then echo "An instance of this daemon is already running" >&2; exit 1; fi
  : >"$daemon"
  echo "$CUDA_MPS_PIPE_DIRECTORY start" >>"$(dirname "$0")/told"
  echo "[2026-01-01] Start" >"$CUDA_MPS_LOG_DIRECTORY/control.log"
  exit 0
fi
command=$(cat)
if [ ! -e "$daemon" ]; then echo "Cannot find MPS control daemon process" >&2; exit 1; fi
echo "$CUDA_MPS_PIPE_DIRECTORY $command" >>"$(dirname "$0")/told"
case $command in
  quit) rm "$daemon" ;;
  get_default_active_thread_percentage) echo 100.0 ;;
esac
`;

export function makeFakeMps(dir: string): FakeMps {
  const bin = join(dir, "mps-bin");
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, "nvidia-cuda-mps-control"), PROGRAM, { mode: 0o755 });
  writeFileSync(join(bin, "told"), "");
  return {
    bin,
    told: () => readFileSync(join(bin, "told"), "utf8").trim().split("\n"),
    mayStart: (may) => (may ? rmSync(join(bin, "refused"), { force: true }) : writeFileSync(join(bin, "refused"), "")),
  };
}
