/**
 * What devices cost: injection from a hundred CDI files, the hooks of NVIDIA's specification, the NVIDIA runtime before the low-level one,
 * and the device plugin's start. On a driver root and an NVML that are made up; no GPU is needed.
 *
 *   sudo bench/run devices [--rounds 40] [--hook FILE] [--runtime FILE] [--json FILE]
 *
 * --hook, --runtime: NVIDIA's nvidia-cdi-hook and nvidia-container-runtime, to be measured in the same run.
 */
import { rmSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { hookFigures, injectionFigures, pluginFigures, runtimeFigures } from "./lib/devices.ts";
import { makeGround } from "./lib/devices-ground.ts";
import { table } from "./lib/figures.ts";

export interface DeviceFigure {
  readonly name: string;
  readonly unit: "ms" | "MB";
  readonly berth: number;
  /** NVIDIA's program, where it was given. */
  readonly peer?: number | undefined;
  readonly aim?: number;
}

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "40" },
    hook: { type: "string" },
    runtime: { type: "string" },
    json: { type: "string" },
  },
});
const rounds = Number(flags.rounds);
const ground = await makeGround();
try {
  const figures = [
    ...(await injectionFigures(ground, rounds)),
    ...(await hookFigures(ground, rounds, flags.hook)),
    ...(await runtimeFigures(ground, rounds, flags.runtime)),
    ...(await pluginFigures(ground, Math.ceil(rounds / 4))),
  ];
  const rows = figures.map(({ name, unit, berth, peer, aim }) => [
    name,
    unit,
    berth.toFixed(berth < 10 ? 2 : 1),
    peer?.toFixed(peer < 10 ? 2 : 1) ?? "",
    aim === undefined ? "" : `< ${aim}`,
    aim === undefined ? "" : berth < aim ? "yes" : "NO",
  ]);
  process.stdout.write(`${table([["medians", "unit", "berth", "NVIDIA's", "aim", "met"], ...rows])}\n`);
  if (flags.json !== undefined) writeFileSync(flags.json, JSON.stringify(figures));
} finally {
  rmSync(ground.dir, { recursive: true, force: true });
}
