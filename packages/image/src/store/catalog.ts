/** Which references there are and what they mean: the images table, with the records made of it in memory. */
import {
  chainIds,
  DEFAULT_DOMAIN,
  image,
  parseReference,
  InvalidReference,
  formatReference,
  repositoryOf,
  withDefaultTag,
} from "@berth/spec/oci";
import { parseConfig, parseManifest } from "../documents.ts";
import { ImageError } from "../errors.ts";
import type { ImageRecord } from "../types.ts";
import type { ContentStore } from "./content.ts";
import type { Database } from "./database.ts";

/** An image as pulled or imported, before it has names. */
export interface ImageContent {
  /** What the names point at: an index, or the manifest itself. */
  readonly target: string;
  readonly targetType: string;
  readonly manifestDigest: string;
  readonly manifestType: string;
  readonly manifestSize: number;
  readonly manifest: image.Manifest;
  readonly config: image.ImageConfig;
  readonly chainId: string | undefined;
}

interface Row {
  readonly reference: string;
  readonly target: string;
  readonly manifest: string;
  readonly imageId: string;
}

export class Catalog {
  readonly #database: Database;
  readonly #pinned: readonly string[];
  /** By manifest digest. */
  readonly #contents = new Map<string, ImageContent>();
  #records = new Map<string, ImageRecord>();
  #byReference = new Map<string, string>();

  constructor(database: Database, pinned: readonly string[]) {
    this.#database = database;
    this.#pinned = pinned;
  }

  list(): ImageRecord[] {
    return [...this.#records.values()];
  }

  get(imageId: string): ImageRecord | undefined {
    return this.#records.get(imageId);
  }

  /** By reference in any form, id ("sha256:…" or its hexadecimal digits, whole or the first few), or target digest. */
  find(text: string): ImageRecord | undefined {
    const direct = this.#records.get(text) ?? this.#records.get(`sha256:${text}`);
    if (direct !== undefined) return direct;
    const id = this.#referenceOf(text);
    const named = id === undefined ? undefined : this.#records.get(id);
    return named ?? this.#byShortId(text);
  }

  /** The tag that `text` is, normalised; undefined for an id or a digest. */
  nameOf(text: string): string | undefined {
    if (this.#records.has(text) || this.#records.has(`sha256:${text}`)) return undefined;
    const tags = this.find(text)?.tags ?? [];
    return tags.find((tag) => tag === text || matches(text, tag));
  }

  /** What the normalised `reference` means now. */
  lookup(reference: string): { readonly target: string; readonly content: ImageContent } | undefined {
    const row = this.#database.sql.prepare("SELECT target, manifest FROM images WHERE reference = ?").get(reference);
    const content = row === undefined ? undefined : this.#contents.get(String(row["manifest"]));
    return row === undefined || content === undefined ? undefined : { target: String(row["target"]), content };
  }

  /**
   * Within the caller's transaction: `references` (normalised) name `content` from now on. An image that loses its last
   * name so stays, without one, until it is removed: containers may run from it.
   */
  put(content: ImageContent, references: readonly string[]): void {
    const { sql } = this.#database;
    const names = references.length > 0 ? references : [content.target];
    for (const reference of names) {
      const before = sql
        .prepare("SELECT target, target_type, manifest, image_id, chain_id, created_at FROM images WHERE reference = ?")
        .get(reference);
      if (before?.["target"] === content.target && before["manifest"] === content.manifestDigest) continue;
      this.#insert(reference, content);
      if (before === undefined) continue;
      const others = sql.prepare("SELECT 1 FROM images WHERE image_id = ?").get(String(before["image_id"]));
      if (others !== undefined) continue;
      sql
        .prepare(
          "INSERT OR REPLACE INTO images (reference, target, target_type, manifest, image_id, chain_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .run(
          String(before["target"]),
          String(before["target"]),
          String(before["target_type"]),
          String(before["manifest"]),
          String(before["image_id"]),
          before["chain_id"] ?? null,
          Number(before["created_at"]),
        );
    }
    // A name makes the nameless entry of the same target superfluous.
    if (references.length > 0)
      sql
        .prepare("DELETE FROM images WHERE reference = ? AND image_id = ?")
        .run(content.target, content.manifest.config.digest);
  }

  /** Within the caller's transaction: drops every name of the image. */
  drop(imageId: string): void {
    this.#database.sql.prepare("DELETE FROM images WHERE image_id = ?").run(imageId);
  }

  /** Roots of the collection. */
  chains(): string[] {
    return this.#database.sql
      .prepare("SELECT DISTINCT chain_id FROM images WHERE chain_id IS NOT NULL")
      .all()
      .map((row) => String(row["chain_id"]));
  }

  /** What the image `imageId` is made of. */
  content(imageId: string): ImageContent | undefined {
    const manifest = this.#records.get(imageId)?.manifest.digest;
    return manifest === undefined ? undefined : this.#contents.get(manifest);
  }

  /** What is loaded, by manifest. */
  contents(): ImageContent[] {
    return [...this.#contents.values()];
  }

  remember(content: ImageContent): void {
    this.#contents.set(content.manifestDigest, content);
  }

  /**
   * Reads what is needed of the images in the database; `restore` sees to their layers. Images whose content is gone or
   * damaged are dropped. Returns what it did.
   */
  async load(content: ContentStore, restore?: (image: ImageContent) => Promise<readonly string[]>): Promise<string[]> {
    const done: string[] = [];
    for (const row of this.#rows()) {
      try {
        const loaded = this.#contents.get(row.manifest) ?? (await this.#read(content, row));
        done.push(...((await restore?.(loaded)) ?? []));
        this.#contents.set(row.manifest, loaded);
      } catch (error) {
        if (
          !(error instanceof ImageError) ||
          (error.code !== "NotFound" && error.code !== "DigestMismatch" && error.code !== "InvalidImage")
        )
          throw error;
        this.#contents.delete(row.manifest);
        this.#database.transaction((sql) => sql.prepare("DELETE FROM images WHERE manifest = ?").run(row.manifest));
        done.push(`dropped image ${row.reference}: ${error.message}`);
      }
    }
    this.refresh();
    return done;
  }

  /** Makes the records again from the database. */
  refresh(): void {
    const groups = Map.groupBy(this.#rows(), (row) => row.imageId);
    const records = new Map<string, ImageRecord>();
    const byReference = new Map<string, string>();
    const used = new Set<string>();
    for (const [imageId, rows] of groups) {
      const content = rows.map((row) => this.#contents.get(row.manifest)).find((found) => found !== undefined);
      if (content === undefined) continue;
      for (const row of rows) {
        byReference.set(row.reference, imageId);
        used.add(row.manifest);
      }
      records.set(imageId, this.#record(imageId, rows, content));
    }
    for (const manifest of this.#contents.keys()) if (!used.has(manifest)) this.#contents.delete(manifest);
    this.#records = records;
    this.#byReference = byReference;
  }

  #rows(): Row[] {
    return this.#database.sql
      .prepare("SELECT reference, target, manifest, image_id FROM images ORDER BY created_at, reference")
      .all()
      .map((row) => ({
        reference: String(row["reference"]),
        target: String(row["target"]),
        manifest: String(row["manifest"]),
        imageId: String(row["image_id"]),
      }));
  }

  #record(imageId: string, rows: readonly Row[], content: ImageContent): ImageRecord {
    const { manifest, config, chainId } = content;
    const names = rows
      .map((row) => row.reference)
      .filter((reference) => !reference.startsWith("sha256:") && !reference.startsWith("sha512:"));
    const size =
      content.manifestSize + manifest.config.size + manifest.layers.reduce((sum, layer) => sum + layer.size, 0);
    return {
      id: imageId,
      tags: names.filter((name) => !name.includes("@")),
      digests: names.filter((name) => name.includes("@")),
      size,
      config: config.config ?? {},
      platform: image.normalizePlatform(config),
      ...(config.created === undefined ? {} : { created: config.created }),
      ...(chainId === undefined ? {} : { chainId }),
      diffIds: config.rootfs.diff_ids,
      manifest: { mediaType: content.manifestType, digest: content.manifestDigest, size: content.manifestSize },
      pinned: names.some((name) => this.#pinned.some((pattern) => matches(pattern, name))),
    };
  }

  async #read(store: ContentStore, row: Row): Promise<ImageContent> {
    const bytes = await store.read(row.manifest);
    const manifest = parseManifest(bytes, row.manifest);
    const config = parseConfig(await store.read(manifest.config.digest), manifest);
    const stored = this.#database.sql.prepare("SELECT target_type FROM images WHERE reference = ?").get(row.reference);
    return {
      target: row.target,
      targetType: String(stored?.["target_type"]),
      manifestDigest: row.manifest,
      manifestType: manifest.mediaType ?? image.MEDIA.ociManifest,
      manifestSize: bytes.length,
      manifest,
      config,
      chainId: chainIds(config.rootfs.diff_ids).at(-1),
    };
  }

  #insert(reference: string, content: ImageContent): void {
    this.#database.sql
      .prepare(
        "INSERT OR REPLACE INTO images (reference, target, target_type, manifest, image_id, chain_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
      )
      .run(
        reference,
        content.target,
        content.targetType,
        content.manifestDigest,
        content.manifest.config.digest,
        content.chainId ?? null,
        Date.now(),
      );
  }

  #referenceOf(text: string): string | undefined {
    const exact = this.#byReference.get(text);
    if (exact !== undefined) return exact;
    try {
      const reference = withDefaultTag(parseReference(text));
      if (reference.digest !== undefined)
        return this.#byReference.get(`${repositoryOf(reference)}@${reference.digest}`);
      return this.#byReference.get(formatReference(reference));
    } catch (error) {
      if (error instanceof InvalidReference) return undefined;
      throw error;
    }
  }

  #byShortId(text: string): ImageRecord | undefined {
    const hex = text.startsWith("sha256:") ? text.slice("sha256:".length) : text;
    if (!/^[0-9a-f]{4,64}$/.test(hex)) return undefined;
    const found = this.list().filter((record) => record.id.startsWith(`sha256:${hex}`));
    return found.length === 1 ? found[0] : undefined;
  }
}

/** `pattern` in any form of a reference, or with "*" for any rest. */
function matches(pattern: string, name: string): boolean {
  if (pattern.endsWith("*"))
    return name.startsWith(pattern.slice(0, -1)) || name.startsWith(`${DEFAULT_DOMAIN}/${pattern.slice(0, -1)}`);
  try {
    return formatReference(withDefaultTag(parseReference(pattern))) === name;
  } catch (error) {
    if (error instanceof InvalidReference) return false;
    throw error;
  }
}
