/** The ImageService. */
import { create } from "@bufbuild/protobuf";
import type { ImageRecord } from "@berth/image";
import { cri } from "@berth/spec";
import { now } from "../clock.ts";
import type { CriContext } from "../context.ts";
import { invalid } from "../errors.ts";

export function listImages(context: CriContext, filter: cri.ImageFilter | undefined): cri.Image[] {
  const wanted = filter?.image?.image ?? "";
  if (wanted === "") return context.images.list().map(toImage);
  const image = context.images.find(wanted);
  return image ? [toImage(image)] : [];
}

/** An image that is not there is an answer without one, not an error (api.proto). */
export function imageStatus(context: CriContext, request: cri.ImageStatusRequest): Promise<cri.ImageStatusResponse> {
  const reference = imageOf(request.image);
  const image = context.images.find(reference);
  if (!image) return Promise.resolve(create(cri.ImageStatusResponseSchema, {}));
  const info = request.verbose
    ? { info: JSON.stringify({ chainID: image.chainId, imageSpec: { config: image.config } }) }
    : {};
  return Promise.resolve(create(cri.ImageStatusResponseSchema, { image: toImage(image), info }));
}

export async function pullImage(
  context: CriContext,
  request: cri.PullImageRequest,
  signal: AbortSignal,
): Promise<cri.PullImageResponse> {
  const reference = imageOf(request.image);
  const options = { signal, ...(request.auth && { auth: request.auth }) };
  const image = await timedPull(context, request, context.images.pull(reference, options));
  return create(cri.PullImageResponseSchema, { imageRef: image.id });
}

/** Notes the pull among the stages of the pod that it is for, which the kubelet names. */
async function timedPull(
  { sandboxes, telemetry }: CriContext,
  { sandboxConfig }: cri.PullImageRequest,
  pull: Promise<ImageRecord>,
): Promise<ImageRecord> {
  const wanted = sandboxConfig?.metadata;
  const pod = sandboxes.values().find(({ record }) => {
    const has = record.config.metadata;
    return (
      wanted !== undefined && has?.uid === wanted.uid && has.name === wanted.name && has.attempt === wanted.attempt
    );
  });
  const ended = telemetry.stage({ operation: "PullImage", step: "", pod: pod?.record.id ?? "", container: "" });
  try {
    const record = await pull;
    ended();
    return record;
  } catch (error) {
    ended(error);
    throw error;
  }
}

export async function removeImage(
  context: CriContext,
  request: cri.RemoveImageRequest,
): Promise<cri.RemoveImageResponse> {
  await context.images.remove(imageOf(request.image));
  return create(cri.RemoveImageResponseSchema, {});
}

export async function imageFsInfo(context: CriContext): Promise<cri.ImageFsInfoResponse> {
  const { mountpoint, usedBytes, inodesUsed } = await context.images.usage();
  const usage = create(cri.FilesystemUsageSchema, {
    timestamp: now(),
    fsId: { mountpoint },
    usedBytes: { value: BigInt(usedBytes) },
    inodesUsed: { value: BigInt(inodesUsed) },
  });
  return create(cri.ImageFsInfoResponseSchema, { imageFilesystems: [usage], containerFilesystems: [usage] });
}

function imageOf(spec: cri.ImageSpec | undefined): string {
  if (!spec?.image) throw invalid("image.image: missing from the request");
  return spec.image;
}

/** USER as the kubelet reads it: a number in `uid`, a name in `username`; the group part is dropped. */
function toImage(image: ImageRecord): cri.Image {
  const [user = ""] = (image.config.User ?? "").split(":", 1);
  const uid = /^\d+$/.test(user) ? { value: BigInt(user) } : undefined;
  return create(cri.ImageSchema, {
    id: image.id,
    repoTags: [...image.tags],
    repoDigests: [...image.digests],
    size: BigInt(image.size),
    uid,
    username: uid ? "" : user,
    spec: { image: image.id },
    pinned: image.pinned,
  });
}
