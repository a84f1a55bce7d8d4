/** How images are kept: containerd's key for it, and berth's own table. */
import type { CollectorPolicy } from "@berth/cri";
import type { SnapshotterName } from "@berth/image";
import { at } from "./handlers.ts";
import { OWN_IMAGES } from "./keys.ts";
import type { Reader } from "./reader.ts";

const SNAPSHOTTERS: readonly SnapshotterName[] = ["erofs", "overlayfs", "native"];
/** The kubelet's defaults. */
const LOW_PERCENT = 80;
const MINIMUM_AGE_MS = 120_000;
const PERIOD_MS = 300_000;

const ownOf = (file: Reader): Reader => file.below("plugins", OWN_IMAGES);

/**
 * Undefined: what works on the root directory. "overlayfs" in containerd's table is what every default file of its says, and
 * so says nothing; whoever means it says it in berth's own table.
 */
export function snapshotterOf(file: Reader, containerd: Reader): SnapshotterName | undefined {
  const own = ownOf(file);
  const said = own.string("snapshotter");
  const known = SNAPSHOTTERS.find((name) => name === said);
  if (said !== undefined && known === undefined)
    throw at(own.entry("snapshotter"), `snapshotter: "${said}" is none of ${SNAPSHOTTERS.join(", ")}`);
  if (known !== undefined) return known;
  return SNAPSHOTTERS.find((name) => name !== "overlayfs" && name === containerd.string("snapshotter"));
}

/** Undefined: the kubelet collects, and berthd does not. */
export function collectionOf(file: Reader): CollectorPolicy | undefined {
  const own = ownOf(file);
  const percent = (name: string): number | undefined => {
    const value = own.int(name);
    if (value !== undefined && (value < 0 || value > 100))
      throw at(own.entry(name), `${name}: ${value} is no percentage (0-100)`);
    return value;
  };
  const highPercent = percent("gc_high_threshold_percent");
  const lowPercent = percent("gc_low_threshold_percent") ?? Math.min(LOW_PERCENT, (highPercent ?? 100) - 1);
  if (highPercent === undefined || highPercent === 100) return undefined;
  if (lowPercent >= highPercent)
    throw at(
      own.entry("gc_low_threshold_percent") ?? own.entry("gc_high_threshold_percent"),
      `gc_low_threshold_percent: ${lowPercent} must be below gc_high_threshold_percent, ${highPercent}`,
    );
  return {
    highPercent,
    lowPercent,
    minimumAgeMs: own.milliseconds("gc_minimum_age") ?? MINIMUM_AGE_MS,
    periodMs: own.milliseconds("gc_period") || PERIOD_MS,
  };
}
