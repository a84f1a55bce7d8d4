/** A machine saved, and read again by a copy: QEMU's migration (qapi/migration.json), of all but the memory, which both have as a file. */
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { pipeline } from "node:stream/promises";
import { VmError } from "../../errors.ts";
import type { Qmp } from "../../qmp/client.ts";
import { COPY_STATE_FD, type TemplateControl } from "../machine.ts";

/** Longer than a guest takes to give its memory back, page by page and emulated. */
const BALLOON_MS = 120_000;
const MIGRATION_MS = 60_000;

/** `directory`: the machine's. */
export function templateControl(qmp: Qmp, directory: string): Omit<TemplateControl, "addShare"> {
  return {
    inflate: async (bytes, signal) => await inflate(qmp, bytes, signal),
    save: async (state, signal) => {
      await prepare(qmp);
      await receive(`${directory}/state.sock`, state, async (uri) => {
        await migrated(qmp, "save", () => qmp.execute("migrate", { uri }, { signal }));
      });
    },
  };
}

/** QEMU writes to a socket: of a file it would have to be given the descriptor, and a shell it may not start (seccomp_sandbox). */
async function receive(socket: string, file: string, send: (uri: string) => Promise<void>): Promise<void> {
  const connected = Promise.withResolvers<Socket>();
  connected.promise.catch(() => {});
  const server = createServer(connected.resolve).on("error", connected.reject);
  try {
    await once(server.listen(socket), "listening");
    const written = connected.promise.then((from) =>
      pipeline(from, createWriteStream(file, { flags: "wx", mode: 0o600 })),
    );
    written.catch(() => {});
    await send(`unix:${socket}`);
    await written;
  } finally {
    server.close();
    await rm(socket, { force: true });
  }
}

/** By the descriptor that it was started with. */
export async function restoreState(qmp: Qmp): Promise<void> {
  await prepare(qmp);
  await migrated(qmp, "restore", () => qmp.execute("migrate-incoming", { uri: `fd:${COPY_STATE_FD}` }));
}

async function prepare(qmp: Qmp): Promise<void> {
  const capabilities = ["x-ignore-shared", "events"].map((capability) => ({ capability, state: true }));
  await qmp.execute("migrate-set-capabilities", { capabilities });
}

async function migrated(qmp: Qmp, what: string, begin: () => Promise<unknown>): Promise<void> {
  const done = qmp.event(
    ({ event, data }) => event === "MIGRATION" && ["completed", "failed"].includes(String(data["status"])),
    what,
    MIGRATION_MS,
  );
  done.catch(() => {});
  await begin();
  // QEMU says why on standard error, and may have ended.
  if ((await done).data["status"] === "failed")
    throw new VmError("Hypervisor", `${what} of a template: QEMU's migration failed`);
}

/** QEMU tells of changes at most once a second, and always of the last. */
async function inflate(qmp: Qmp, bytes: number, signal: AbortSignal | undefined): Promise<void> {
  const isThere = async (): Promise<boolean> =>
    (await qmp.execute<{ actual: number }>("query-balloon", {}, { signal })).actual === bytes;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // Where it is there at once nobody waits, and the hypervisor ends some day.
  promise.catch(() => {});
  const off = qmp.onEvent(({ event, data }) => {
    if (event === "BALLOON_CHANGE" && data["actual"] === bytes) resolve();
  });
  const late = setTimeout(
    () => reject(new VmError("Guest", `the guest did not come to ${bytes} bytes within ${BALLOON_MS / 1000} s`)),
    BALLOON_MS,
  );
  const abort = (): void => reject(signal?.reason as Error);
  signal?.addEventListener("abort", abort, { once: true });
  void qmp.ended.then((reason) => reject(new VmError("Hypervisor", `the hypervisor is gone: ${reason}`)));
  try {
    await qmp.execute("balloon", { value: bytes }, { signal });
    if (!(await isThere())) await promise;
  } finally {
    off();
    clearTimeout(late);
    signal?.removeEventListener("abort", abort);
  }
}
