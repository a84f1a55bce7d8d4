/** crictl's commands, by name. */
import type { CommandSpec } from "../command.ts";
import { attach } from "./attach.ts";
import { checkpoint } from "./checkpoint.ts";
import { completion } from "./completion.ts";
import { config } from "./config.ts";
import { create } from "./create.ts";
import { events } from "./events.ts";
import { exec } from "./exec.ts";
import { imagefsinfo } from "./imagefsinfo.ts";
import { images } from "./images.ts";
import { info } from "./info.ts";
import { inspect } from "./inspect.ts";
import { inspecti } from "./inspecti.ts";
import { inspectp } from "./inspectp.ts";
import { logs } from "./logs.ts";
import { metricdescs } from "./metricdescs.ts";
import { metricsp } from "./metricsp.ts";
import { pods } from "./pods.ts";
import { portForward } from "./port-forward.ts";
import { ps } from "./ps.ts";
import { pull } from "./pull.ts";
import { rm } from "./rm.ts";
import { rmi } from "./rmi.ts";
import { rmp } from "./rmp.ts";
import { run } from "./run.ts";
import { runp } from "./runp.ts";
import { runtimeConfig } from "./runtime-config.ts";
import { start } from "./start.ts";
import { stats } from "./stats.ts";
import { statsp } from "./statsp.ts";
import { stop } from "./stop.ts";
import { stopp } from "./stopp.ts";
import { update } from "./update.ts";
import { updateRuntimeConfig } from "./update-runtime-config.ts";
import { version } from "./version.ts";

export const COMMANDS: readonly CommandSpec[] = [
  attach,
  checkpoint,
  completion,
  config,
  create,
  events,
  exec,
  imagefsinfo,
  images,
  info,
  inspect,
  inspecti,
  inspectp,
  logs,
  metricdescs,
  metricsp,
  pods,
  portForward,
  ps,
  pull,
  rm,
  rmi,
  rmp,
  run,
  runp,
  runtimeConfig,
  start,
  stats,
  statsp,
  stop,
  stopp,
  update,
  updateRuntimeConfig,
  version,
];
