/** The image store's tables. */
import type { Migration } from "./database.ts";

export const IMAGE_SCHEMA: readonly Migration[] = [
  `
  -- Blobs under content/blobs; a row is written only when the blob is durable.
  CREATE TABLE content (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    created_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;

  -- What a manifest or index needs: mark and sweep follows these.
  CREATE TABLE content_refs (
    parent TEXT NOT NULL,
    child TEXT NOT NULL,
    PRIMARY KEY (parent, child)
  ) STRICT, WITHOUT ROWID;

  -- A name (normalised reference with tag or digest, or a bare digest for an import without a name) and what it means.
  CREATE TABLE images (
    reference TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    target_type TEXT NOT NULL,
    manifest TEXT NOT NULL,
    image_id TEXT NOT NULL,
    chain_id TEXT,
    created_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX images_by_id ON images (image_id);

  -- snapshots/<id>. kind: 'draft' (a layer being unpacked), 'layer' (chain_id set, never changed), 'active' (key set).
  CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('draft', 'layer', 'active')),
    chain_id TEXT UNIQUE,
    key TEXT UNIQUE,
    parent INTEGER REFERENCES snapshots (id),
    bytes INTEGER NOT NULL DEFAULT 0,
    inodes INTEGER NOT NULL DEFAULT 0,
    -- JSON array: directories of a layer that hide what is beneath them.
    opaque TEXT NOT NULL DEFAULT '[]',
    created_at INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX snapshots_by_parent ON snapshots (parent);

  -- Keeps what is under way from being collected. temporary: ends with the process that took it.
  CREATE TABLE leases (
    id TEXT PRIMARY KEY,
    temporary INTEGER NOT NULL,
    created_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE lease_refs (
    lease TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('content', 'chain')),
    target TEXT NOT NULL,
    PRIMARY KEY (lease, kind, target)
  ) STRICT, WITHOUT ROWID;
  `,
  `
  -- What a snapshot is on disk: a layer 'directory' (fs/) or 'erofs' (layer.erofs); a writable layer 'overlay' or 'copy'.
  ALTER TABLE snapshots ADD COLUMN format TEXT NOT NULL DEFAULT 'directory';
  UPDATE snapshots SET format = 'overlay' WHERE kind = 'active';
  `,
  `
  -- Of a layer whose files may not be on the disk yet: the boot (/proc/sys/kernel/random/boot_id) in which they were written.
  ALTER TABLE snapshots ADD COLUMN boot TEXT;
  `,
  `
  -- What a layer's image is verified by when it is mounted (snapshots/seal.ts).
  ALTER TABLE snapshots ADD COLUMN seal TEXT;
  `,
];
