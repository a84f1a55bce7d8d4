/** What Cloud Hypervisor writes of its devices (--event-monitor): JSON objects, an empty line between two. */
import { watch } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { VmError } from "../../errors.ts";

export const eventsFile = (directory: string): string => `${directory}/events`;

interface ClhEvent {
  readonly source: string;
  readonly event: string;
  readonly properties?: Readonly<Record<string, string>> | null;
}

/** Since its start. The last may be half written. */
async function eventsOf(file: string): Promise<ClhEvent[]> {
  const texts = (await readFile(file, "utf8")).split("\n\n").slice(0, -1);
  return texts.map((text) => JSON.parse(text) as ClhEvent);
}

const removals = async (file: string, id: string): Promise<number> =>
  (await eventsOf(file)).filter(({ event, properties }) => event === "device-removed" && properties?.["id"] === id)
    .length;

/** How long a guest may take to let go of a device. */
const UNPLUG_MS = 30_000;

/** Does `ask`, and returns when the device has gone. Rejects with VmError Guest where it does not. */
export async function removed(directory: string, id: string, ask: () => Promise<void>): Promise<void> {
  const file = eventsFile(directory);
  let changed = Promise.withResolvers<void>();
  const watcher = watch(dirname(file), (_, name) => {
    if (name === basename(file)) changed.resolve();
  });
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new VmError("Guest", `${id}: the guest did not let go of it within ${UNPLUG_MS / 1000} s`)),
    UNPLUG_MS,
  );
  try {
    const before = await removals(file, id);
    await ask();
    for (;;) {
      changed = Promise.withResolvers<void>();
      if ((await removals(file, id)) > before) return;
      await Promise.race([changed.promise, late.promise]);
    }
  } finally {
    clearTimeout(timer);
    watcher.close();
  }
}
