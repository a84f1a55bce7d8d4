/** The names CNI puts into paths and environments, checked before they get there (CNI spec 1.1, section 2, "Parameters"). */

const IDENTIFIER = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

export function isIdentifier(name: string): boolean {
  return IDENTIFIER.test(name);
}

/** Linux's rule: 1 to 15 bytes, not "." or "..", no "/", ":" or white space. */
export function isInterfaceName(name: string): boolean {
  return name !== "." && name !== ".." && Buffer.byteLength(name) <= 15 && /^[^/:\s\0]+$/.test(name);
}

export function requireIdentifier(what: string, name: string): void {
  if (!isIdentifier(name)) {
    throw new TypeError(
      `${what} ${JSON.stringify(name)}: must start with a letter or digit and hold only letters, digits, "_", "." and "-"`,
    );
  }
}

export function requireInterfaceName(name: string): void {
  if (!isInterfaceName(name)) {
    throw new TypeError(
      `interface name ${JSON.stringify(name)}: must be 1 to 15 bytes without "/", ":" or white space`,
    );
  }
}
