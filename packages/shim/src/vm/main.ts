/** containerd-shim-berth-vm-v2: the shim by which containerd runs pods, and containers of their own, in virtual machines. */
import { runProgram } from "../server/program.ts";

void runProgram({ name: "containerd-shim-berth-vm-v2", parts: async () => (await import("./parts.ts")).vmParts });
