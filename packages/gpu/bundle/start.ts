/** `berth-device-plugin`: its bundle, or the sources where these are newer. */
import { createRequire } from "node:module";
import { join } from "node:path";
import { isFresh } from "@berth/kernel/stamps";
import { PROGRAM } from "./program.ts";

const root = join(import.meta.dirname, "../..");
const require = createRequire(join(import.meta.dirname, "main.cjs"));
if (isFresh(root, import.meta.dirname)) require(join(import.meta.dirname, PROGRAM));
else void import(join(root, "packages/gpu/src/device-plugin.ts"));
