/** Pulls an image through berthd, showing its progress. */
import type { Client } from "../client.ts";
import type { RegistryAuth } from "../registry/credentials.ts";
import { followTransfer, type Transferred } from "../registry/transfer.ts";
import type { PullDisplay } from "./progress.ts";

export async function pullImage(
  client: Client,
  image: string,
  auth: RegistryAuth | undefined,
  display: PullDisplay,
  signal?: AbortSignal,
): Promise<Transferred> {
  return await followTransfer(
    client.berth.pull({ image, ...(auth && { auth }) }, { signal }),
    display,
    `pull of "${image}"`,
  );
}
