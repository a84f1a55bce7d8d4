/** What berth's own command does with the image store: save, disk usage, check (berth/v1/berth.proto). */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { ImageRecord } from "@berth/image";
import { berth } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid } from "../errors.ts";
import type { Handlers, Send } from "../server/grpc.ts";
import { imagesInUse } from "./collector.ts";
import { platformOf } from "./registry.ts";

type Verbs = "save" | "diskUsage" | "pruneImages" | "check";

export function storeHandlers(context: CriContext): Pick<Handlers<typeof berth.Berth>, Verbs> {
  return {
    save: (request, signal, send) => save(context, request, signal, send),
    diskUsage: (request) => diskUsage(context, request),
    pruneImages: (request) => pruneImages(context, request),
    check: (request, signal, send) => check(context, request, signal, send),
  };
}

async function save(
  context: CriContext,
  { images, platform }: berth.SaveRequest,
  signal: AbortSignal,
  send: Send<berth.SaveChunk>,
): Promise<void> {
  if (images.length === 0) throw invalid("save: images is empty");
  for await (const chunk of context.images.exportArchive(images, platformOf(platform))) {
    signal.throwIfAborted();
    await send(create(berth.SaveChunkSchema, { chunk: new Uint8Array(chunk) }));
  }
}

async function diskUsage(context: CriContext, { verbose }: berth.DiskUsageRequest): Promise<berth.DiskUsageResponse> {
  const { images, containers } = context;
  const all = [...containers.values()];
  const used = imagesInUse(context);
  const records = images.list();
  const layers = images.imageUsage(used);
  const sizes = await Promise.all(
    all.map(async ({ record }) => ({
      id: record.id,
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
    ...(verbose && {
      images: eachImage(context),
      containers: sizes.map(({ id, bytes }) => ({ id, bytes: BigInt(bytes) })),
    }),
  });
}

type ImageUsage = MessageInitShape<typeof berth.DiskUsageResponse_ImageSchema>;

function eachImage({ images, containers }: CriContext): ImageUsage[] {
  const sizes = images.imageSizes();
  const users = Map.groupBy(containers.values(), ({ record }) => record.imageId);
  return images.list().map(({ id, tags, digests, created }) => {
    const { bytes = 0, unique = 0 } = sizes.get(id) ?? {};
    return {
      id,
      references: [...(tags.length > 0 ? tags : digests)],
      createdAt: BigInt(Date.parse(created ?? "") || 0) * 1_000_000n,
      bytes: BigInt(bytes),
      uniqueBytes: BigInt(unique),
      containers: users.get(id)?.length ?? 0,
    };
  });
}

async function pruneImages(context: CriContext, request: berth.PruneImagesRequest): Promise<berth.PruneImagesResponse> {
  const { images } = context;
  const before = await images.usage();
  const removed: { id: string; references: string[] }[] = [];
  for (const { id, tags, digests } of images.list().filter((image) => isMeant(image, request))) {
    // Asked anew for each: a container may have been made on it meanwhile.
    if (imagesInUse(context).has(id)) continue;
    await images.remove(id);
    removed.push({ id, references: [...(tags.length > 0 ? tags : digests)] });
  }
  const { usedBytes } = await images.usage();
  const reclaimedBytes = BigInt(Math.max(0, before.usedBytes - usedBytes));
  return create(berth.PruneImagesResponseSchema, { images: removed, reclaimedBytes });
}

/** As docker has it: labels must all be there; an image that does not say when it was made is from before any time. */
function isMeant(
  { pinned, tags, created, config }: ImageRecord,
  { all, until, labels, withoutLabels }: berth.PruneImagesRequest,
): boolean {
  if (pinned || (tags.length > 0 && !all)) return false;
  if (until !== 0n && BigInt(Date.parse(created ?? "") || 0) * 1_000_000n >= until) return false;
  const has = (label: string): boolean => {
    const [, key = "", value] = /^([^=]*)(?:=(.*))?$/s.exec(label) ?? [];
    const found = config.Labels?.[key];
    return found !== undefined && (value === undefined || found === value);
  };
  return labels.every(has) && !withoutLabels.some(has);
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
