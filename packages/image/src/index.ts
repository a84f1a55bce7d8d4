/** Images: registry client, content store, layers, snapshots. */
export { Images, type ImagesOptions } from "./images.ts";
export { Database, openDatabase, type Migration } from "./store/database.ts";
export type { PullEvent, Pulls, PullState } from "./pulls.ts";
export type { CopyOptions, PushOptions, Remote, RemoteOptions } from "./remote.ts";
export type { VerificationOptions } from "./verify/verifier.ts";
export type { BinDirOptions } from "./verify/bindir.ts";
export { ImageError, type ImageErrorCode } from "./errors.ts";
export type {
  Credentials,
  ImageRecord,
  ImportOptions,
  Log,
  Progress,
  ProgressStatus,
  PullOptions,
  Rootfs,
  StoreUsage,
  Usage,
  UserDatabase,
} from "./types.ts";
export { parseProxy, proxyFromEnvironment, type ProxySettings } from "./registry/proxy.ts";
export type { CheckOptions, Problem } from "./store/check.ts";
export type { RetryPolicy } from "./registry/retry.ts";
export type { RegistryHostSettings, RegistrySettings } from "./registry/settings.ts";
export type { LayerLimits } from "./layers/apply.ts";
export { parseSize } from "./size.ts";
export type { Verity } from "./snapshots/seal.ts";
export { SNAPSHOTTERS, type SnapshotterName } from "./snapshots/choose.ts";
export { ErofsTree } from "./erofs/writer.ts";
