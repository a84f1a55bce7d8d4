/**
 * A small image without a network: the machine's own static busybox, as an OCI layout in a tar file.
 *
 *   node scripts/busybox-image.ts FILE [REFERENCE]
 */
import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { digestOf } from "@berth/spec";

export const QUICKSTART_IMAGE = "localhost/busybox:latest";

interface TarEntry {
  readonly path: string;
  readonly mode: number;
  readonly content?: Buffer;
  readonly link?: string;
}

/** Writes `<dir>/busybox.tar`, naming the image `reference`; resolves with its path. The same busybox gives the same bytes. */
export async function busyboxArchive(dir: string, reference: string = QUICKSTART_IMAGE): Promise<string> {
  const path = join(dir, "busybox.tar");
  await writeFile(path, await busyboxImage(reference));
  return path;
}

async function busyboxImage(reference: string): Promise<Buffer> {
  return imageArchive(reference, await busyboxFiles(), { Cmd: ["sh"] });
}

/**
 * An OCI layout of one layer with these files, in a tar file; `run` is the image's own config (image-spec config.md), `more`
 * what is beside that, `annotations` the manifest's.
 */
export const imageArchive = (
  reference: string,
  files: readonly TarEntry[],
  run: object,
  more: object = {},
  annotations: Readonly<Record<string, string>> = {},
): Buffer => layeredArchive(reference, [files], run, more, annotations);

/** The same of several layers, lowest first. */
export function layeredArchive(
  reference: string,
  contents: readonly (readonly TarEntry[])[],
  run: object,
  more: object = {},
  annotations: Readonly<Record<string, string>> = {},
): Buffer {
  const layers = contents.map((files) => tar(files));
  const compressed = layers.map((layer) => gzipSync(layer, { level: 1 }));
  const config = json({
    architecture: { x64: "amd64", arm64: "arm64" }[process.arch as "x64" | "arm64"],
    os: "linux",
    config: { Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], ...run },
    rootfs: { type: "layers", diff_ids: layers.map((layer) => digestOf(layer)) },
    history: [{ created_by: "berth's busybox-image.ts" }],
    ...more,
  });
  const manifest = json({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: digestOf(config), size: config.length },
    layers: compressed.map((blob) => ({
      mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      digest: digestOf(blob),
      size: blob.length,
    })),
    annotations,
  });
  const index = json({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [
      {
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        digest: digestOf(manifest),
        size: manifest.length,
        annotations: {
          "io.containerd.image.name": reference,
          "org.opencontainers.image.ref.name": reference.split(":").at(-1),
        },
      },
    ],
  });
  const blobs = [config, ...compressed, manifest].map((content) =>
    file(`blobs/sha256/${digestOf(content).slice("sha256:".length)}`, content),
  );
  return tar([
    file("oci-layout", json({ imageLayoutVersion: "1.0.0" })),
    file("index.json", index),
    directory("blobs/"),
    directory("blobs/sha256/"),
    ...blobs,
  ]);
}

/** The files of the image, to which others can be added. */
export async function busyboxFiles(): Promise<TarEntry[]> {
  const run = promisify(execFile);
  const { stdout: where } = await run("sh", ["-c", "command -v busybox"]);
  const { stdout: applets } = await run(where.trim(), ["--list"]);
  const links = applets
    .trim()
    .split("\n")
    .filter((name) => name !== "busybox");
  return [
    ...["bin/", "dev/", "etc/", "home/", "proc/", "root/", "run/", "sys/", "usr/", "usr/bin/", "var/"].map(directory),
    { path: "tmp/", mode: 0o1777 },
    file("bin/busybox", await readFile(where.trim()), 0o755),
    ...links.map((name) => ({ path: `bin/${name}`, mode: 0o777, link: "busybox" })),
    file("etc/passwd", Buffer.from("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")),
    file("etc/group", Buffer.from("root:x:0:\nnogroup:x:65534:\n")),
  ];
}

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
export const file = (path: string, content: Buffer, mode = 0o644): TarEntry => ({ path, mode, content });
const directory = (path: string): TarEntry => ({ path, mode: 0o755 });

/** POSIX ustar: a 512-byte header and the content, padded, for each entry; two empty blocks at the end. */
function tar(entries: readonly TarEntry[]): Buffer {
  const blocks = entries.flatMap((entry) => {
    const content = entry.content ?? Buffer.alloc(0);
    return [header(entry, content.length), content, Buffer.alloc(-content.length & 511)];
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

function header(entry: TarEntry, size: number): Buffer {
  const block = Buffer.alloc(512);
  const octal = (value: number, at: number, length: number) =>
    block.write(value.toString(8).padStart(length - 1, "0"), at);
  if (entry.path.length > 100) throw new Error(`${entry.path}: longer than the 100 bytes that a tar header holds`);
  block.write(entry.path, 0);
  octal(entry.mode, 100, 8);
  octal(0, 108, 8); // owner
  octal(0, 116, 8); // group
  octal(size, 124, 12);
  octal(0, 136, 12); // time
  block.write("        ", 148); // the checksum counts as blanks while it is summed
  block.write(entry.link !== undefined ? "2" : entry.path.endsWith("/") ? "5" : "0", 156);
  block.write(entry.link ?? "", 157);
  block.write("ustar\x0000", 257);
  block.write(
    `${block
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, "0")}\0 `,
    148,
  );
  return block;
}

if (import.meta.main) {
  const [path, reference = QUICKSTART_IMAGE] = process.argv.slice(2);
  if (path === undefined) throw new Error("usage: busybox-image.ts FILE [REFERENCE]");
  await writeFile(path, await busyboxImage(reference));
}
