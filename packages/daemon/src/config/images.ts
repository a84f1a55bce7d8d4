/** How images are kept: containerd's key for it, and berth's own table. */
import type { CollectorPolicy } from "@berth/cri";
import { parseProxy, proxyFromEnvironment, type ProxySettings, type SnapshotterName, SNAPSHOTTERS } from "@berth/image";
import { at } from "./handlers.ts";
import { OWN_IMAGES } from "./keys.ts";
import type { Reader } from "./reader.ts";

/** The kubelet's defaults. */
const LOW_PERCENT = 80;
const MINIMUM_AGE_MS = 120_000;
const PERIOD_MS = 300_000;

const ownOf = (file: Reader): Reader => file.below("plugins", OWN_IMAGES);

/** Undefined: the environment's. What the file names counts over that, variable by variable. */
export function proxyOf(file: Reader, environment: NodeJS.ProcessEnv): ProxySettings | undefined {
  const own = ownOf(file);
  const [http, https, no] = [own.string("http_proxy"), own.string("https_proxy"), own.string("no_proxy")];
  if (http === undefined && https === undefined && no === undefined) return undefined;
  for (const name of ["http_proxy", "https_proxy"]) {
    try {
      const said = own.string(name);
      if (said !== undefined) parseProxy(said, name);
    } catch (error) {
      throw at(own.entry(name), (error as Error).message);
    }
  }
  const said = { ...(http && { http }), ...(https && { https }), ...(no && { no }) };
  return { ...proxyFromEnvironment(environment), ...said };
}

/** A file of this table, by its absolute path. */
export function fileOf(file: Reader, name: "auth_file" | "signature_policy"): string | undefined {
  const own = ownOf(file);
  const path = own.string(name);
  if (path !== undefined && !path.startsWith("/"))
    throw at(own.entry(name), `${name}: "${path}" is not an absolute path`);
  return path;
}

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
