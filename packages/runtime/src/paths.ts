/** Paths inside a container, as text, and how a mount point that is missing is made. */

/** `create` of move_mount. */
export const CREATE = { directory: 1, file: 2, likeSource: 3 } as const;

/** "/a/b" for "a//b/", "/a/./c/../b"; ".." at the root stays there, as it does for the kernel. */
export function cleanPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

export function isBelow(path: string, directory: string): boolean {
  return path.startsWith(directory === "/" ? "/" : `${directory}/`) && path !== directory;
}
