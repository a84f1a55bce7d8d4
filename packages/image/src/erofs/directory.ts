/** Directory blocks: entries first, sorted by name, then the names; no entry crosses a block. */
import { BLOCK, DIRENT_SIZE, FILE_TYPE, S_IFMT, SLOT } from "./format.ts";
import { type Inode, sortedNames } from "./model.ts";

interface Entry {
  readonly name: string;
  readonly inode: Inode;
}

function entriesOf(directory: Inode, parent: Inode): Entry[] {
  const children = directory.children as Map<string, Inode>;
  const named = new Map<string, Inode>([...children, [".", directory], ["..", parent]]);
  return sortedNames(named).map((name) => ({ name, inode: named.get(name) as Inode }));
}

/** Bytes of the directory's content: whole blocks, but for the last. */
export function directorySize(directory: Inode): number {
  let blocks = 0;
  let used = 0;
  const children = directory.children as Map<string, Inode>;
  const names = sortedNames(new Map([...children, [".", null], ["..", null]]));
  for (const name of names) {
    const size = DIRENT_SIZE + name.length;
    if (used + size > BLOCK) {
      blocks++;
      used = 0;
    }
    used += size;
  }
  return blocks * BLOCK + used;
}

/** All its inodes must have their places. */
export function encodeDirectory(directory: Inode, parent: Inode): Buffer {
  const content = Buffer.alloc(directory.size);
  let block: Entry[] = [];
  let used = 0;
  let at = 0;
  const close = (): void => {
    writeBlock(content, at, block);
    at += BLOCK;
    block = [];
    used = 0;
  };
  for (const entry of entriesOf(directory, parent)) {
    const size = DIRENT_SIZE + entry.name.length;
    if (used + size > BLOCK) close();
    block.push(entry);
    used += size;
  }
  close();
  return content;
}

function writeBlock(content: Buffer, at: number, entries: readonly Entry[]): void {
  let name = entries.length * DIRENT_SIZE;
  for (const [index, entry] of entries.entries()) {
    const dirent = at + index * DIRENT_SIZE;
    content.writeBigUInt64LE(BigInt(entry.inode.offset / SLOT), dirent);
    content.writeUInt16LE(name, dirent + 8);
    content.writeUInt8(FILE_TYPE[entry.inode.mode & S_IFMT] as number, dirent + 10);
    content.write(entry.name, at + name, "latin1");
    name += entry.name.length;
  }
}
