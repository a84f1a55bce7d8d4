/** Guest images: the archive as cpio(1) reads it, and modules in the order in which they can be loaded. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { gzipSync, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { buildImage, readImage } from "../src/image/build.ts";
import { cpioArchive } from "../src/image/cpio.ts";
import { inspectImage } from "../src/image/inspect.ts";
import { findKernel } from "../src/image/kernel.ts";
import { pickModules } from "../src/image/modules.ts";
import { shellEntries } from "../src/image/shell.ts";
import { unpackCpio } from "./support/cpio.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-vm-image-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

test("an archive has directories, files, links and devices, and nothing of this machine", () => {
  const archive = cpioArchive([
    { path: "dev", kind: "directory" },
    { path: "dev/console", kind: "character", mode: 0o600, device: [5, 1] },
    { path: "init", kind: "file", data: Buffer.from("#!"), mode: 0o755 },
    { path: "bin", kind: "symlink", target: "usr/bin" },
  ]);
  const entries = unpackCpio(archive);
  assert.deepEqual(
    entries.map(({ path, mode, data, device }) => [path, mode.toString(8), data.toString(), device.join(":")]),
    [
      ["dev", "40755", "", "0:0"],
      ["dev/console", "20600", "", "5:1"],
      ["init", "100755", "#!", "0:0"],
      ["bin", "120777", "usr/bin", "0:0"],
    ],
  );
  assert.ok(entries.every(({ uid, gid, mtime }) => uid === 0 && gid === 0 && mtime === 0));
});

/** A modules directory: `needs` as depmod writes them. */
function modules(files: Readonly<Record<string, { needs?: string; data?: Uint8Array }>>, builtin = ""): string {
  const root = join(dir, "modules");
  for (const [path, { data = Buffer.from(path) }] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), data);
  }
  const lines = Object.entries(files).map(([path, { needs = "" }]) => `${path}:${needs === "" ? "" : ` ${needs}`}\n`);
  writeFileSync(join(root, "modules.dep"), lines.join(""));
  writeFileSync(join(root, "modules.builtin"), builtin);
  return root;
}

const VIRTIO = {
  "kernel/virtio.ko": {},
  "kernel/virtio_ring.ko": { needs: "kernel/virtio.ko" },
  "kernel/virtio_pci.ko": { needs: "kernel/virtio_ring.ko kernel/virtio.ko" },
};

test("a module comes after all that it needs, once", async () => {
  const root = modules({ ...VIRTIO, "kernel/virtio-rng.ko": { needs: "kernel/virtio_ring.ko kernel/virtio.ko" } });
  const { modules: picked } = await pickModules(root, ["virtio_pci", "virtio_rng"], []);
  assert.deepEqual(
    picked.map(({ name }) => name),
    ["virtio", "virtio_ring", "virtio_pci", "virtio_rng"],
  );
});

test("compressed modules are stored as they are loaded", async () => {
  const root = modules({
    "kernel/a.ko.gz": { data: gzipSync(Buffer.from("A")) },
    "kernel/b.ko.zst": { needs: "kernel/a.ko.gz", data: zstdCompressSync(Buffer.from("B")) },
  });
  const { modules: picked } = await pickModules(root, ["b"], []);
  assert.deepEqual(
    picked.map(({ path, data }) => [path, Buffer.from(data).toString()]),
    [
      ["kernel/a.ko", "A"],
      ["kernel/b.ko", "B"],
    ],
  );
});

test("what is built in needs no file, and what is missing is told", async () => {
  const root = modules(VIRTIO, "kernel/overlay.ko\n");
  const { modules: picked, absent } = await pickModules(root, ["virtio_pci", "overlay"], ["9p"]);
  assert.equal(picked.length, 3);
  assert.deepEqual(absent, ["9p"]);
  await assert.rejects(
    pickModules(root, ["virtiofs"], []),
    /no module virtiofs, and modules\.builtin does not name it/,
  );
  await assert.rejects(pickModules(join(dir, "nowhere"), [], []), /modules\.dep: no such file; .*--modules/);
});

/** A bzImage as far as its version goes (boot.rst). */
function kernelFile(path: string, release: string): void {
  const head = Buffer.alloc(0x1000);
  head.write("HdrS", 0x202, "latin1");
  head.writeUInt16LE(0x600, 0x20e);
  head.write(`${release} (somebody) #1`, 0x800, "latin1");
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, head);
}

test("the newest kernel for virtual machines is found, with the modules of the version in it", async () => {
  const [boot, lib] = [join(dir, "boot"), join(dir, "lib")];
  for (const release of ["6.1.0-9-cloud-amd64", "6.1.0-50-cloud-amd64", "6.12.1-amd64"]) {
    kernelFile(join(boot, `vmlinuz-${release}`), release);
    mkdirSync(join(lib, release), { recursive: true });
  }
  assert.deepEqual(await findKernel({ boot, lib }), {
    path: join(boot, "vmlinuz-6.1.0-50-cloud-amd64"),
    release: "6.1.0-50-cloud-amd64",
    modules: join(lib, "6.1.0-50-cloud-amd64"),
  });
  await assert.rejects(
    findKernel({ boot: join(dir, "none"), lib }),
    /no vmlinuz-\*; install one made for virtual machines/,
  );
});

test("an image is a kernel, an initramfs of bosun and modules, and a description", async () => {
  const kernel = join(dir, "vmlinuz");
  kernelFile(kernel, "6.1.0-test");
  writeFileSync(join(dir, "bosun"), "BOSUN");
  const names = ["virtio_pci", "virtio_console", "virtio_net", "virtio_blk", "virtiofs", "overlay"];
  const root = modules(Object.fromEntries(names.map((name) => [`kernel/${name}.ko`, {}])));
  const output = join(dir, "image");
  const made = await buildImage({ output, bosun: join(dir, "bosun"), kernel, modules: root });
  assert.deepEqual(made, await readImage(output));
  assert.equal(made.kernelRelease, "6.1.0-test");
  const entries = unpackCpio(zstdDecompressSync(readFileSync(join(output, "initrd"))));
  const byPath = new Map(entries.map((entry) => [entry.path, entry]));
  assert.equal(byPath.get("init")?.data.toString(), "BOSUN");
  assert.equal(byPath.get("init")?.mode, 0o100755);
  const listed = byPath.get("etc/berth/modules")?.data.toString().trim().split("\n") ?? [];
  assert.deepEqual(
    listed,
    names.map((name) => `/lib/modules/6.1.0-test/kernel/${name}.ko`),
  );
  for (const path of listed) assert.ok(byPath.has(path.slice(1)), path);
  assert.equal(await readImage(join(dir, "nothing")), undefined);

  // The same as root file systems, each with an initramfs that finds it.
  for (const [type, name] of Object.entries(made.images)) {
    const { size, ...about } = inspectImage(join(output, name));
    assert.deepEqual(about, { type, partitioned: true });
    assert.equal(size % (2 << 20), 0);
    const loader = unpackCpio(zstdDecompressSync(readFileSync(join(output, `${name}.initrd`))));
    const paths = loader.map(({ path }) => path);
    assert.ok(paths.includes("init"));
    assert.ok(paths.includes("lib/modules/6.1.0-test/kernel/virtio_blk.ko"));
    assert.ok(!paths.includes("lib/modules/6.1.0-test/kernel/overlay.ko"));
  }
  assert.equal(made.images.erofs, "root.erofs");
  if (existsSync("/usr/sbin/mkfs.ext4")) assert.equal(made.images.ext4, "root.ext4");
});

test("an image may have Kata's agent as PID 1, which must need no libraries", async () => {
  const kernel = join(dir, "vmlinuz");
  kernelFile(kernel, "6.1.0-test");
  writeFileSync(join(dir, "bosun"), "BOSUN");
  const names = ["virtio_pci", "virtio_console", "virtio_net", "virtio_blk", "virtiofs", "overlay"];
  const root = modules(Object.fromEntries(names.map((name) => [`kernel/${name}.ko`, {}])));
  /** With one program header of this type (elf(5)). */
  const program = (name: string, type: number): string => {
    const elf = Buffer.alloc(64 + 56);
    elf.set([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
    elf.writeBigUInt64LE(64n, 32);
    elf.writeUInt16LE(56, 54);
    elf.writeUInt16LE(1, 56);
    elf.writeUInt32LE(type, 64);
    writeFileSync(join(dir, name), elf);
    return join(dir, name);
  };
  const build = (agent: string) =>
    buildImage({ output: join(dir, "kata"), bosun: join(dir, "bosun"), kernel, modules: root, agent });
  const made = await build(program("static", 1));
  assert.equal(made.agent, "kata");
  const entries = unpackCpio(zstdDecompressSync(readFileSync(join(dir, "kata/initrd"))));
  const agent = entries.find(({ path }) => path === "usr/bin/kata-agent");
  assert.deepEqual([agent?.mode, agent?.data.length], [0o100755, 120]);
  await assert.rejects(build(program("dynamic", 3)), /--agent: .*dynamic needs libraries, which the guest has not/);
  await assert.rejects(build(join(dir, "bosun")), /--agent: .*bosun is no program for this machine/);
});

test("an image's file system is known, in a partition too", () => {
  const image = (name: string, ...pieces: readonly (readonly [at: number, bytes: Uint8Array | string])[]): string => {
    const bytes = Buffer.alloc(4 << 20);
    for (const [at, piece] of pieces) bytes.set(Buffer.from(piece as string), at);
    writeFileSync(join(dir, name), bytes);
    return join(dir, name);
  };
  const record = Buffer.alloc(512);
  record[450] = 0x83;
  record.writeUInt32LE(2048, 454);
  record.writeUInt16LE(0xaa55, 510);
  const ext4 = Buffer.from([0x53, 0xef]);
  const known: readonly [string, ReturnType<typeof inspectImage>][] = [
    [image("xfs", [0, "XFSB"]), { size: 4 << 20, type: "xfs", partitioned: false }],
    [image("ext4", [1080, ext4]), { size: 4 << 20, type: "ext4", partitioned: false }],
    [image("kata", [0, record], [(1 << 20) + 1080, ext4]), { size: 4 << 20, type: "ext4", partitioned: true }],
    [image("none"), { size: 4 << 20, type: undefined, partitioned: false }],
  ];
  for (const [path, about] of known) assert.deepEqual(inspectImage(path), about, path);
});

test("a shell for the debug console is one static program", async () => {
  const shell = join(dir, "busybox");
  const elf = (type: number): Buffer => {
    const data = Buffer.alloc(64 + 56);
    data.write("\x7fELF\x02", "latin1");
    data.writeBigUInt64LE(64n, 0x20);
    data.writeUInt16LE(56, 0x36);
    data.writeUInt16LE(1, 0x38);
    data.writeUInt32LE(type, 64);
    return data;
  };
  const PT_LOAD = 1;
  const PT_INTERP = 3;
  writeFileSync(shell, elf(PT_LOAD));
  assert.deepEqual(await shellEntries(shell), [
    { path: "bin/busybox", kind: "file", data: elf(PT_LOAD), mode: 0o755 },
    { path: "bin/sh", kind: "symlink", target: "busybox" },
  ]);
  for (const [data, words] of [
    [elf(PT_INTERP), /busybox: is not linked statically; the guest has no libraries/],
    [elf(PT_LOAD).subarray(0, 100), /busybox: is cut off/],
    [Buffer.from("#!/bin/sh"), /busybox: is no 64-bit program/],
  ] as const) {
    writeFileSync(shell, data);
    await assert.rejects(shellEntries(shell), words);
  }
  await assert.rejects(shellEntries(join(dir, "none")), /no busybox at .*none; install busybox-static, or name one/);
});
