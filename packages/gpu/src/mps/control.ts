/** CUDA's MPS control daemon, by its program nvidia-cuda-mps-control: started with -d, and told commands at its standard input. */
import { run } from "./program.ts";
import type { Places } from "./places.ts";

const PROGRAM = "nvidia-cuda-mps-control";

/** Resolves its answer. Rejects where no daemon answers. */
export async function tellMps(places: Places, command: string): Promise<string> {
  return await run(PROGRAM, [], { env: variables(places), input: command });
}

/** Rejects where it cannot run, as when one runs there already. */
export async function startMps(places: Places): Promise<void> {
  await run(PROGRAM, ["-d"], { env: variables(places) });
}

/** undefined: it answers; else why not. */
export async function problemOfMps(places: Places): Promise<string | undefined> {
  try {
    await tellMps(places, "get_default_active_thread_percentage");
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const variables = ({ pipes, logs }: Places): Record<string, string> => ({
  CUDA_MPS_PIPE_DIRECTORY: pipes,
  CUDA_MPS_LOG_DIRECTORY: logs,
});
