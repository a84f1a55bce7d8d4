/** A process that does something with images: puller.ts ROOT BOSUN VERB ARGUMENT. */
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { startHand } from "@berth/kernel";
import { Images } from "../../src/images.ts";

const [root, bosun, verb, argument] = process.argv.slice(2) as [string, string, string, string];
const state = join(root, "state");
const hand = await startHand({ bosun, state });
const images = await Images.open({ root: join(root, "images"), hand, serveSocket: join(state, "serve.sock") });
await images.recover();
if (verb === "pull") await images.pull(argument);
else if (verb === "run") await images.prepareRootfs("c", argument);
else if (verb === "remove") await images.remove(argument);
else if (verb === "import") await images.importArchive(createReadStream(argument));
else if (verb === "repair") for await (const problem of images.check({ repair: true })) void problem;
else if (verb === "stop") await images.removeRootfs(argument);
await images.close();
await hand.close();
