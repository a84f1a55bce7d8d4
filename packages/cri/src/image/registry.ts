/** What berth's own command does with registries: pull with progress, push, copy, list, log in (berth/v1/berth.proto). */
import { create } from "@bufbuild/protobuf";
import type { Credentials, Progress } from "@berth/image";
import { berth, type image } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { invalid } from "../errors.ts";
import type { Handlers, Send } from "../server/grpc.ts";

type Verbs = "pull" | "watchPulls" | "push" | "copy" | "tag" | "listTags" | "listReferrers" | "login";

export function registryHandlers(context: CriContext): Pick<Handlers<typeof berth.Berth>, Verbs> {
  return {
    pull: (request, signal, send) => pull(context, request, signal, send),
    watchPulls: ({ once }, signal, send) => watchPulls(context, once, signal, send),
    push: (request, signal, send) => push(context, request, signal, send),
    copy: (request, signal, send) => copy(context, request, signal, send),
    tag: async ({ image, name }) =>
      create(berth.TagResponseSchema, { imageId: (await context.images.tag(image, name)).id }),
    listTags: async ({ repository, auth }, signal) =>
      create(berth.ListTagsResponseSchema, {
        tags: await context.images.remote.tags(repository, { signal, ...authOf(auth) }),
      }),
    listReferrers: (request, signal) => listReferrers(context, request, signal),
    login: async ({ server, auth }, signal) => {
      await context.images.remote.login(server, authOf(auth).auth ?? {}, signal);
      return create(berth.LoginResponseSchema);
    },
  };
}

async function pull(
  context: CriContext,
  { image: reference, auth, platform }: berth.PullRequest,
  signal: AbortSignal,
  send: Send<berth.PullProgress>,
): Promise<void> {
  const { progress, sent } = progressTo(send);
  const image = await context.images.pull(reference, { signal, progress, ...authOf(auth), ...platformOf(platform) });
  await sent();
  await sendEnd(send, image.id, image.tags[0] ?? image.digests[0] ?? reference);
}

/** Ends with the caller. */
async function watchPulls(
  context: CriContext,
  once: boolean,
  signal: AbortSignal,
  send: Send<berth.PullEvent>,
): Promise<void> {
  const over = new AbortController();
  const both = AbortSignal.any([signal, over.signal]);
  let last = Promise.resolve();
  context.images.pulls.watch(({ reference, startedAt, progress, error }) => {
    const message = create(berth.PullEventSchema, {
      reference,
      startedAt: BigInt(startedAt) * 1_000_000n,
      ...(progress && { progress: toMessage(progress) }),
      ...(error !== undefined && { error }),
    });
    last = last.then(() => send(message));
    last.catch((failure: unknown) => over.abort(failure));
  }, both);
  if (once) over.abort();
  else await new Promise((resolve) => both.addEventListener("abort", resolve, { once: true }));
  await last;
}

async function push(
  context: CriContext,
  { image, auth, nondistributable, platform }: berth.PushRequest,
  signal: AbortSignal,
  send: Send<berth.PullProgress>,
): Promise<void> {
  const { progress, sent } = progressTo(send);
  const options = { signal, progress, nondistributable, ...authOf(auth), ...platformOf(platform) };
  const digest = await context.images.remote.push(image, options);
  await sent();
  await sendEnd(send, digest, image);
}

async function copy(
  context: CriContext,
  { source, destination, sourceAuth, destinationAuth, all, platform }: berth.CopyRequest,
  signal: AbortSignal,
  send: Send<berth.PullProgress>,
): Promise<void> {
  const { progress, sent } = progressTo(send);
  const { auth: fromAuth } = authOf(sourceAuth);
  const digest = await context.images.remote.copy(source, destination, {
    signal,
    progress,
    all,
    ...authOf(destinationAuth),
    ...(fromAuth && { fromAuth }),
    ...platformOf(platform),
  });
  await sent();
  await sendEnd(send, digest, destination);
}

async function listReferrers(
  context: CriContext,
  { image, auth, artifactType }: berth.ListReferrersRequest,
  signal: AbortSignal,
): Promise<berth.ListReferrersResponse> {
  const wanted = artifactType === "" ? {} : { artifactType };
  const found = await context.images.remote.referrers(image, { signal, ...authOf(auth), ...wanted });
  return create(berth.ListReferrersResponseSchema, {
    referrers: found.map(({ digest, mediaType, artifactType: type, size, annotations }) => ({
      digest,
      mediaType,
      artifactType: type ?? "",
      size: BigInt(size),
      annotations: { ...annotations },
    })),
  });
}

/** The stream keeps order; what is sent is awaited at the end, so that a slow reader does not slow the work. */
function progressTo(send: Send<berth.PullProgress>): {
  readonly progress: (progress: Progress) => void;
  readonly sent: () => Promise<void>;
} {
  let last = Promise.resolve();
  const progress = (update: Progress): void => {
    const message = toMessage(update);
    last = last.then(() => send(message));
    // A reader that has gone is noticed by the call's own signal.
    last.catch(() => undefined);
  };
  return { progress, sent: () => last };
}

const toMessage = (progress: Progress): berth.PullProgress =>
  create(berth.PullProgressSchema, {
    ...progress,
    doneBytes: BigInt(progress.doneBytes),
    totalBytes: BigInt(progress.totalBytes),
  });

async function sendEnd(send: Send<berth.PullProgress>, imageId: string, reference: string): Promise<void> {
  await send(create(berth.PullProgressSchema, { id: imageId, status: "done", imageId, reference }));
}

/** Empty fields are absent ones. */
function authOf(auth: berth.RegistryAuth | undefined): { auth?: Credentials } {
  if (auth === undefined) return {};
  const { $typeName: _, $unknown: __, ...fields } = auth;
  const given = Object.entries(fields).filter(([, value]) => value !== "");
  return given.length === 0 ? {} : { auth: Object.fromEntries(given) };
}

/** "os/architecture[/variant]", as everywhere. */
export function platformOf(text: string): { platform?: image.Platform } {
  if (text === "") return {};
  const [os = "", architecture = "", variant, ...rest] = text.split("/");
  if (os === "" || architecture === "" || rest.length > 0)
    throw invalid(`platform: "${text}" is not of the form linux/amd64 or linux/arm/v7`);
  return { platform: { os, architecture, ...(variant === undefined ? {} : { variant }) } };
}
