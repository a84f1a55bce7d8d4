/** User names, for what people read. */
import { readFileSync } from "node:fs";
import { isMissing } from "./record.ts";

/** As in /etc/passwd; "#1000" for a number that is nobody's there. */
export function userName(uid: number): string {
  let passwd = "";
  try {
    passwd = readFileSync("/etc/passwd", "utf8");
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  const line = passwd.split("\n").find((one) => one.split(":")[2] === String(uid));
  return line?.split(":")[0] ?? (uid === 0 ? "root" : `#${uid}`);
}
