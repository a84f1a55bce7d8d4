/** Mount options as mount(8) and the OCI runtime specification name them, turned into what the mount API takes. */

/** MOUNT_ATTR_* of mount_setattr(2) and fsmount(2). */
export const MOUNT_ATTR = {
  RDONLY: 0x1n,
  NOSUID: 0x2n,
  NODEV: 0x4n,
  NOEXEC: 0x8n,
  /** Mask of the access-time setting: RELATIME (0), NOATIME, STRICTATIME. */
  ATIME: 0x70n,
  NOATIME: 0x10n,
  STRICTATIME: 0x20n,
  NODIRATIME: 0x80n,
  IDMAP: 0x100000n,
  NOSYMFOLLOW: 0x200000n,
} as const;

/** MS_* of mount(2) that berth uses itself: propagation, and a bind's. */
export const MS = {
  RDONLY: 0x1n,
  NOSUID: 0x2n,
  NODEV: 0x4n,
  NOEXEC: 0x8n,
  REMOUNT: 0x20n,
  NOATIME: 0x400n,
  BIND: 0x1000n,
  REC: 0x4000n,
  UNBINDABLE: 0x20000n,
  PRIVATE: 0x40000n,
  SLAVE: 0x80000n,
  SHARED: 0x100000n,
} as const;

interface AttributeChange {
  readonly set: bigint;
  readonly clear: bigint;
}

const set = (bits: bigint): AttributeChange => ({ set: bits, clear: 0n });
const clear = (bits: bigint): AttributeChange => ({ set: 0n, clear: bits });
/** An access-time mode replaces the one before: the kernel wants the whole field cleared with any bit of it set. */
const atime = (bits: bigint): AttributeChange => ({ set: bits, clear: MOUNT_ATTR.ATIME });

const ATTRIBUTES: Readonly<Record<string, AttributeChange>> = {
  ro: set(MOUNT_ATTR.RDONLY),
  rw: clear(MOUNT_ATTR.RDONLY),
  nosuid: set(MOUNT_ATTR.NOSUID),
  suid: clear(MOUNT_ATTR.NOSUID),
  nodev: set(MOUNT_ATTR.NODEV),
  dev: clear(MOUNT_ATTR.NODEV),
  noexec: set(MOUNT_ATTR.NOEXEC),
  exec: clear(MOUNT_ATTR.NOEXEC),
  noatime: atime(MOUNT_ATTR.NOATIME),
  atime: atime(0n),
  relatime: atime(0n),
  norelatime: atime(0n),
  strictatime: atime(MOUNT_ATTR.STRICTATIME),
  nostrictatime: atime(0n),
  nodiratime: set(MOUNT_ATTR.NODIRATIME),
  diratime: clear(MOUNT_ATTR.NODIRATIME),
  nosymfollow: set(MOUNT_ATTR.NOSYMFOLLOW),
  symfollow: clear(MOUNT_ATTR.NOSYMFOLLOW),
};

/** Flags of the file system rather than of the mount: fsconfig keys of their own. */
const SUPERBLOCK_FLAGS = new Set(["sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"]);

const PROPAGATION: Readonly<Record<string, { readonly flag: bigint; readonly recursive: boolean }>> = {
  shared: { flag: MS.SHARED, recursive: false },
  rshared: { flag: MS.SHARED, recursive: true },
  slave: { flag: MS.SLAVE, recursive: false },
  rslave: { flag: MS.SLAVE, recursive: true },
  private: { flag: MS.PRIVATE, recursive: false },
  rprivate: { flag: MS.PRIVATE, recursive: true },
  unbindable: { flag: MS.UNBINDABLE, recursive: false },
  runbindable: { flag: MS.UNBINDABLE, recursive: true },
};

export interface MountOptions {
  /** MOUNT_ATTR_* for this mount only. */
  readonly set: bigint;
  readonly clear: bigint;
  /** MOUNT_ATTR_* for it and all below it (the `r*` options). */
  readonly recursiveSet: bigint;
  readonly recursiveClear: bigint;
  /** What becomes of a bind's own attributes; undefined: they stay as they are. */
  readonly change:
    | (AttributeChange & {
        /** Those that were to be cleared by name. */
        readonly refuse: bigint;
      })
    | undefined;
  readonly propagation: { readonly flag: bigint; readonly recursive: boolean } | undefined;
  readonly bind: "none" | "bind" | "rbind";
  readonly idmap: "none" | "idmap" | "ridmap";
  readonly tmpcopyup: boolean;
  /** fsconfig options: superblock flags and what the file system itself understands. */
  readonly data: readonly string[];
}

/** "defaults" and what only matters to fstab are dropped; the last of contradicting options wins, as in mount(8). */
const IGNORED = new Set([
  "defaults",
  "auto",
  "noauto",
  "user",
  "nouser",
  "users",
  "owner",
  "group",
  "_netdev",
  "nofail",
  "remount",
  // Flags of mount(2) that the new mount API does not have: a matter of the kernel's log, and of the file system itself.
  "silent",
  "loud",
  "iversion",
  "noiversion",
]);

export function parseMountOptions(options: readonly string[]): MountOptions {
  const own = new Attributes();
  const recursive = new Attributes();
  const data: string[] = [];
  let [propagation, bind, idmap, tmpcopyup]: [
    MountOptions["propagation"],
    MountOptions["bind"],
    MountOptions["idmap"],
    boolean,
  ] = [undefined, "none", "none", false];
  for (const option of options) {
    const attribute = attributeOf(option);
    const recursiveAttribute = option.startsWith("r") ? attributeOf(option.slice(1)) : undefined;
    if (attribute !== undefined) own.apply(attribute);
    else if (Object.hasOwn(PROPAGATION, option)) propagation = PROPAGATION[option];
    else if (recursiveAttribute !== undefined) recursive.apply(recursiveAttribute);
    else if (option === "bind" || option === "rbind") bind = option;
    else if (option === "idmap" || option === "ridmap") idmap = option;
    else if (option === "tmpcopyup") tmpcopyup = true;
    else if (!IGNORED.has(option) && option !== "") data.push(option);
  }
  return {
    set: own.set,
    clear: own.clear,
    recursiveSet: recursive.set,
    recursiveClear: recursive.clear,
    change: bindChange(options),
    propagation,
    bind,
    idmap,
    tmpcopyup,
    data,
  };
}

/** Options of `data` that are no superblock flags: what a bind mount has no use for. */
export function fileSystemData(data: readonly string[]): string[] {
  return data.filter((option) => !SUPERBLOCK_FLAGS.has(option));
}

const PLAIN = MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC | MOUNT_ATTR.NOSYMFOLLOW;
/** In the order in which mount(2) lets one win over the other. */
const ATIMES = { strictatime: MOUNT_ATTR.STRICTATIME, noatime: MOUNT_ATTR.NOATIME, relatime: 0n } as const;
const ATIME_UNDONE: Readonly<Record<string, keyof typeof ATIMES>> = {
  atime: "noatime",
  norelatime: "relatime",
  nostrictatime: "strictatime",
};

/**
 * As mount(2)'s MS_REMOUNT|MS_BIND, which is how runc does it: with any flag at all the mount has those that were asked for, and no
 * others; its access-time setting stays unless one is set by name.
 */
function bindChange(options: readonly string[]): MountOptions["change"] {
  const atimes = new Set<string>();
  let [set, refuse, asked] = [0n, 0n, false];
  for (const option of options) {
    const attribute = attributeOf(option);
    if (attribute === undefined && !SUPERBLOCK_FLAGS.has(option)) continue;
    asked = true;
    const undone = ATIME_UNDONE[option];
    if (undone !== undefined) atimes.delete(undone);
    else if (option in ATIMES) atimes.add(option);
    else if (attribute !== undefined) {
      set = (set & ~attribute.clear) | attribute.set;
      refuse = (refuse & ~attribute.set) | attribute.clear;
    }
  }
  if (!asked) return undefined;
  const kept = set & (PLAIN | MOUNT_ATTR.NODIRATIME);
  const clear = PLAIN & ~kept;
  // mount(2) does not hear of an access-time setting that is only taken away.
  const named = refuse & PLAIN;
  if (atimes.size === 0 && (kept & MOUNT_ATTR.NODIRATIME) === 0n) return { set: kept, clear, refuse: named };
  const [winner] = Object.entries(ATIMES).filter(([name]) => atimes.has(name));
  return {
    set: kept | (winner?.[1] ?? 0n),
    clear: clear | MOUNT_ATTR.ATIME | (MOUNT_ATTR.NODIRATIME & ~kept),
    refuse: named,
  };
}

function attributeOf(name: string): AttributeChange | undefined {
  return Object.hasOwn(ATTRIBUTES, name) ? ATTRIBUTES[name] : undefined;
}

class Attributes {
  set = 0n;
  clear = 0n;
  apply(change: AttributeChange): void {
    this.set = (this.set & ~change.clear) | change.set;
    // mount_setattr(2): a bit that is set must not be cleared too, but for the access-time field, which must be.
    this.clear = ((this.clear | change.clear) & ~change.set) | (change.clear & MOUNT_ATTR.ATIME);
    if (change.set & MOUNT_ATTR.ATIME) this.clear |= MOUNT_ATTR.ATIME;
  }
}

/** Every option that means something by itself (what a file system understands comes on top), sorted. */
export function mountOptionNames(): string[] {
  const attributes = Object.keys(ATTRIBUTES);
  return [
    ...attributes,
    ...attributes.map((name) => `r${name}`),
    ...SUPERBLOCK_FLAGS,
    ...Object.keys(PROPAGATION),
    "bind",
    "rbind",
    "defaults",
    "remount",
    "tmpcopyup",
  ].sort();
}
