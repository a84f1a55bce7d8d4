/** Kernel versions (uname(2)'s release). */

/** [6, 1] of "6.1.0-28-amd64". Throws on what is no kernel release. */
export function parseKernelVersion(text: string): [number, number] {
  const match = /^(\d+)\.(\d+)/.exec(text);
  if (match?.[1] === undefined || match[2] === undefined)
    throw new Error(`kernel release ${JSON.stringify(text)} has no version`);
  return [Number(match[1]), Number(match[2])];
}

export function atLeast(version: readonly [number, number], major: number, minor: number): boolean {
  return version[0] > major || (version[0] === major && version[1] >= minor);
}
