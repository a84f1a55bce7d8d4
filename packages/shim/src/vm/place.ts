/** What shims for machines share with berthd and berth-vm: with a state directory of their own it is below that. */
import { dirname, join } from "node:path";
import { DEFAULT_IMAGE_DIRECTORY, DEFAULT_STATE, sandboxesOf } from "@berth/vm";
import { ownState } from "../server/place.ts";

/** One template serves them all. */
export const templatesDirectory = join(ownState ?? dirname(DEFAULT_IMAGE_DIRECTORY), "templates");
/** Management sockets, by the pod's id. */
export const sandboxesDirectory = sandboxesOf(ownState ?? DEFAULT_STATE);
