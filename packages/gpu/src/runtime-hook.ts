/** The `nvidia-container-runtime-hook` command. */
import { prestartHook } from "./prestart/command.ts";

process.exitCode = await prestartHook(process.argv.slice(2), process);
