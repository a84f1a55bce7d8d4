/** What berth's own command does with the image store: save, disk usage, check (berth/v1/berth.proto). */
import { create } from "@bufbuild/protobuf";
import { berth } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid } from "../errors.ts";
import type { Handlers, Send } from "../server/grpc.ts";

type Verbs = "save" | "diskUsage" | "check";

export function storeHandlers(context: CriContext): Pick<Handlers<typeof berth.Berth>, Verbs> {
  return {
    save: (request, signal, send) => save(context, request, signal, send),
    diskUsage: () => diskUsage(context),
    check: (request, signal, send) => check(context, request, signal, send),
  };
}

async function save(
  context: CriContext,
  { images }: berth.SaveRequest,
  signal: AbortSignal,
  send: Send<berth.SaveChunk>,
): Promise<void> {
  if (images.length === 0) throw invalid("save: images is empty");
  for await (const chunk of context.images.exportArchive(images)) {
    signal.throwIfAborted();
    await send(create(berth.SaveChunkSchema, { chunk: new Uint8Array(chunk) }));
  }
}

async function diskUsage(context: CriContext): Promise<berth.DiskUsageResponse> {
  const { images, containers } = context;
  const all = [...containers.values()];
  const used = new Set(all.map(({ record }) => record.imageId));
  const records = images.list();
  const layers = images.imageUsage(used);
  const sizes = await Promise.all(
    all.map(async ({ record }) => ({
      running: record.phase === "running",
      bytes: images.rootfs(record.id) === undefined ? 0 : (await images.rootfsUsage(record.id)).bytes,
    })),
  );
  const sum = (list: readonly { readonly bytes: number }[]): number =>
    list.reduce((total, { bytes }) => total + bytes, 0);
  const running = sizes.filter((container) => container.running);
  return create(berth.DiskUsageResponseSchema, {
    kinds: [
      {
        type: "images",
        total: records.length,
        active: records.filter(({ id }) => used.has(id)).length,
        bytes: BigInt(layers.bytes),
        reclaimable: BigInt(layers.reclaimable),
      },
      {
        type: "containers",
        total: all.length,
        active: running.length,
        bytes: BigInt(sum(sizes)),
        reclaimable: BigInt(sum(sizes) - sum(running)),
      },
    ],
  });
}

async function check(
  context: CriContext,
  { repair }: berth.CheckRequest,
  signal: AbortSignal,
  send: Send<berth.CheckProgress>,
): Promise<void> {
  let sent = Promise.resolve();
  const progress = (checking: string): void => {
    sent = sent.then(() => send(create(berth.CheckProgressSchema, { checking })));
    // A reader that has gone is noticed by the call's own signal.
    sent.catch(() => undefined);
  };
  for await (const { kind, id, problem, repair: done = "" } of context.images.check({ repair, signal, progress })) {
    await sent;
    await send(create(berth.CheckProgressSchema, { kind, id, problem, repair: done }));
  }
  await sent;
}
