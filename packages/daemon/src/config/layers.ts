/** containerd's settings of its EROFS snapshotter and differ: how layers are kept, and how much may be written on them. */
import { parseSize, type Verity } from "@berth/image";
import { at } from "./handlers.ts";
import { EROFS, EROFS_DIFFER } from "./keys.ts";
import type { Reader } from "./reader.ts";

export interface LayerSettings {
  /** What layers are sealed by; undefined: nothing. */
  readonly verity: Verity | undefined;
  /** Bytes that a container may write where its own request does not say; undefined: no limit. */
  readonly writableLayerSize: number | undefined;
}

export function layersOf(file: Reader): LayerSettings {
  const erofs = file.below("plugins", EROFS);
  return { verity: verityOf(erofs, file.below("plugins", EROFS_DIFFER)), writableLayerSize: sizeOf(erofs) };
}

/** "auto" is containerd's default: layers have what its differ was told to give them. */
function verityOf(erofs: Reader, differ: Reader): Verity | undefined {
  const mode = erofs.string("dmverity_mode") ?? "auto";
  if (!["auto", "on", "off"].includes(mode))
    throw at(erofs.entry("dmverity_mode"), `dmverity_mode: "${mode}" is none of "auto", "on" and "off"`);
  const dm = mode === "on" || (mode === "auto" && differ.bool("enable_dmverity") === true);
  const fs = erofs.bool("enable_fsverity") === true;
  if (dm && fs)
    throw at(
      erofs.entry("enable_fsverity"),
      "enable_fsverity and dm-verity exclude each other: layers have one of them",
    );
  if (dm) return "dmverity";
  return fs ? "fsverity" : undefined;
}

function sizeOf(erofs: Reader): number | undefined {
  const text = erofs.string("default_size");
  const megabytes = erofs.int("default_size_mb");
  const size = text === undefined ? (megabytes ?? 0) * 2 ** 20 : parseSize(text);
  if (size === undefined || size < 0)
    throw at(
      erofs.entry("default_size") ?? erofs.entry("default_size_mb"),
      `default_size: "${text}" is not a size, as in "20GiB"`,
    );
  return size === 0 ? undefined : size;
}
