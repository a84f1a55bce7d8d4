/** shim v2 both ways. */
export { packJson, packMessage, unpackJson, unpackMessage } from "./any.ts";
export { serveEvents, type EventListener } from "./client/events.ts";
export {
  type Bootstrap,
  bootstrapCommand,
  deleteCommand,
  parseBootstrap,
  parseDeleted,
  type ShimCall,
  shimBinary,
  startCommand,
  wantsBootstrap,
} from "./client/launch.ts";
export { type Fifos, fifosIn, planShimProcess, type ShimProcess } from "./client/process.ts";
export { statsOf } from "./client/stats.ts";
export { TaskService } from "./client/task.ts";
