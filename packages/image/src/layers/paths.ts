/**
 * Names in a layer, as strings of one character per byte (latin1), so that names which are no UTF-8 survive and can be
 * keys. A canonical path is relative, without "." and "..", and "" is the root.
 */
export function toName(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

export function toBytes(name: string): Uint8Array {
  return Buffer.from(name, "latin1");
}

/** What tree writers call a path: the root is ".". */
export function treePath(path: string): Uint8Array {
  return toBytes(path === "" ? "." : path);
}

/** Components of a path as an archive has it; ".." goes up, and at the root stays there. */
export function components(path: string): string[] {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return parts;
}

export function join(directory: string, name: string): string {
  return directory === "" ? name : `${directory}/${name}`;
}
