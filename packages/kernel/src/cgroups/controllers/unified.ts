/** `unified`: cgroup v2 files by name, as they are. */
import type { Order } from "../../orders/plan.ts";
import { ResourceError, settings, writeOrder, type Settings } from "../orders.ts";

/** A value of several lines is several writes: a cgroup file takes one line at a time. */
export function unified(
  files: Readonly<Record<string, string>>,
  directory: string,
  available: readonly string[],
): Settings {
  const orders: Order[] = [];
  for (const [file, value] of Object.entries(files)) {
    const field = `linux.resources.unified[${JSON.stringify(file)}]`;
    if (file.includes("/") || !file.includes("."))
      throw new ResourceError(field, 'is not a cgroup file\'s name, as in "memory.high"');
    const controller = file.split(".")[0] ?? "";
    if (controller !== "cgroup" && !available.includes(controller))
      throw new ResourceError(field, `this machine's cgroup v2 has no ${controller} controller`);
    for (const line of value.split("\n").filter((text) => text.trim() !== ""))
      orders.push(writeOrder(directory, file, line, field));
  }
  return settings(orders);
}
