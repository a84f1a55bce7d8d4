/** The CRI: RuntimeService and ImageService over gRPC, the streaming server, and what a restart makes of an earlier life. */
export { CdiSpecs } from "./container/cdi.ts";
export { NvidiaGpus } from "./container/nvidia.ts";
export { Events } from "./events.ts";
export { type CollectorPolicy, ImageCollector } from "./image/collector.ts";
export { Locks } from "./lock.ts";
export { type Log, silent } from "./log.ts";
export type { CriConfig, CriContext, Paths } from "./context.ts";
export type { HandlerTable, RuntimeHandler } from "./handlers.ts";
export { runtimeKinds } from "./runtimes/all.ts";
export { VM_TYPE, vmKind } from "./runtimes/vm/kind.ts";
export { NriPlugins, type NriSettings } from "./nri/plugins.ts";
export type { CriSettings } from "./settings.ts";
export { exposition } from "./telemetry/exposition.ts";
export { Telemetry } from "./telemetry/telemetry.ts";
export { CriError, toStatus } from "./errors.ts";
export { containerStore, sandboxStore } from "./store/open.ts";
export { recover } from "./recovery.ts";
export { CriServer } from "./server/server.ts";
