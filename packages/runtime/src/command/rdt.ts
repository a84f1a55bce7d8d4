/** What Intel RDT has of a container, when it goes. */
import { readHost, type Front } from "@berth/kernel";
import { intelRdtRemoval } from "../rdt.ts";
import type { ContainerRecord } from "../state/record.ts";

export function removeRdt({ id, berth }: ContainerRecord, front: Front): void {
  front.run(intelRdtRemoval(berth.spec, id, readHost()));
}
