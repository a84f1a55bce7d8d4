/** Where systemd puts a container: `slice:prefix:name` of linux.cgroupsPath as a unit, and as the path of its cgroup. */

export interface SystemdPlace {
  readonly slice: string;
  /** "runc-c1.scope"; the name itself where it is a slice. */
  readonly unit: string;
  /** Absolute, as in "/system.slice/runc-c1.scope". */
  readonly path: string;
}

const DEFAULT_PREFIX = "runc";

/** `cgroupsPath` empty: system.slice (a user's: user.slice), as runc has it. Throws Error naming what is wrong. */
export function systemdPlace(cgroupsPath: string, id: string, isUser = false): SystemdPlace {
  const parts = cgroupsPath === "" ? ["", DEFAULT_PREFIX, id] : cgroupsPath.split(":");
  if (parts.length !== 3)
    throw new Error(`cgroupsPath ${JSON.stringify(cgroupsPath)} is not "slice:prefix:name", which systemd needs`);
  const [slice = "", prefix = "", name = ""] = parts;
  if (name === "") throw new Error(`cgroupsPath ${JSON.stringify(cgroupsPath)} has no name behind its last colon`);
  const parent = slice === "" ? (isUser ? "user.slice" : "system.slice") : slice;
  const unit = name.endsWith(".slice") ? name : `${prefix === "" ? "" : `${prefix}-`}${name}.scope`;
  if (unit.includes("/")) throw new Error(`cgroupsPath ${JSON.stringify(cgroupsPath)}: a unit's name has no "/"`);
  return { slice: parent, unit, path: `${slicePath(parent)}/${unit}` };
}

/** "/a.slice/a-b.slice" of "a-b.slice": a slice lies in the slices that its name begins with; "-.slice" is the root. */
export function slicePath(slice: string): string {
  if (slice === "-.slice") return "";
  const name = /^([^/]+)\.slice$/.exec(slice)?.[1];
  if (name === undefined || name.startsWith("-") || name.endsWith("-") || name.includes("--"))
    throw new Error(`${JSON.stringify(slice)} is not the name of a slice`);
  const words = name.split("-");
  return words.map((_word, index) => `/${words.slice(0, index + 1).join("-")}.slice`).join("");
}
