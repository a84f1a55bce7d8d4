/** Pulls an image through berthd, showing its progress. */
import type { berth } from "@berth/spec";
import type { Client } from "../client.ts";
import { Failure } from "../failure.ts";
import type { Credentials } from "./credentials.ts";
import type { PullDisplay } from "./progress.ts";

export interface Pulled {
  readonly id: string;
  /** The full reference: "docker.io/library/busybox:latest". */
  readonly reference: string;
}

export async function pullImage(
  client: Client,
  image: string,
  credentials: Credentials | undefined,
  display: PullDisplay,
  signal?: AbortSignal,
): Promise<Pulled> {
  let last: berth.PullProgress | undefined;
  try {
    for await (const progress of client.berth.pull({ image, ...credentials }, { signal })) {
      if (progress.imageId !== "") last = progress;
      else display.update(progress);
    }
  } finally {
    display.finish();
  }
  if (!last) throw new Failure(`berthd ended the pull of "${image}" without an image; see its log`);
  return { id: last.imageId, reference: last.reference };
}
