/** containerd-shim-berth-v2: the shim by which containerd runs berth's containers. */
import { runProgram } from "./program.ts";

void runProgram({ name: "containerd-shim-berth-v2", parts: async () => (await import("./own-parts.ts")).ownParts });
