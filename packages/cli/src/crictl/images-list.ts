/** Images in crictl's order, and its filters. */
import type { cri } from "@berth/spec";
import type { Images } from "./command.ts";
import { CrictlError, wrap } from "./errors.ts";

export async function listImages(images: Images, name: string, filters: readonly string[]): Promise<cri.Image[]> {
  const found = (await images.listImages({ filter: { image: { image: name } } })).images.toSorted(compare);
  return filters.length === 0 || found.length === 0 ? found : wrap("filter images", () => filtered(found, filters));
}

const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

function compare(a: cri.Image, b: cri.Image): number {
  const [tagA, tagB, digestA, digestB] = [a.repoTags[0], b.repoTags[0], a.repoDigests[0], b.repoDigests[0]];
  if (tagA !== undefined && tagB !== undefined) return order(tagA, tagB);
  if (digestA !== undefined && digestB !== undefined) return order(digestA, digestB);
  return order(a.id, b.id);
}

function filtered(list: readonly cri.Image[], filters: readonly string[]): cri.Image[] {
  let left = [...list];
  for (const filter of filters) {
    const [, key, value = ""] = /^(before|dangling|reference|since)=(.*)$/s.exec(filter) ?? [];
    if (key === "before") left = untilMatch(left.toReversed(), value).toReversed();
    else if (key === "since") left = untilMatch(left, value);
    else if (key === "dangling")
      left = left.filter(
        ({ repoTags }) => (value === "true" && repoTags.length === 0) || (value === "false" && repoTags.length > 0),
      );
    else if (key === "reference") left = left.filter((image) => matches(repoDigest(image.repoDigests)[0], value));
    else throw new CrictlError(`unknown filter flag: ${filter}`);
  }
  return left;
}

function matches(name: string, pattern: string): boolean {
  try {
    return new RegExp(pattern, "u").test(name) || name === pattern;
  } catch (error) {
    throw new CrictlError((error as Error).message);
  }
}

/** Those in front of the one that is named, by tag, id or digest. */
function untilMatch(list: readonly cri.Image[], value: string): cri.Image[] {
  const [tag, digest] = [value.includes(":"), value.includes("@")];
  const is = (image: cri.Image): boolean => {
    if (tag && digest) return (image.repoDigests[0] ?? "").startsWith(value);
    if (tag) return repoTagPairs(image.repoTags, repoDigest(image.repoDigests)[0])[0]?.join(":") === value;
    return !digest && image.id.startsWith(value);
  };
  const end = list.findIndex(is);
  return end < 0 ? [...list] : list.slice(0, end);
}

/** Repository and digest of the first. */
export function repoDigest(digests: readonly string[]): [string, string] {
  const [first] = digests;
  if (first === undefined) return ["<none>", "<none>"];
  const [name = "", digest, more] = first.split("@");
  return digest === undefined || more !== undefined ? ["errorName", "errorRepoDigest"] : [name, digest];
}

export function repoTagPairs(tags: readonly string[], imageName: string): [string, string][] {
  if (tags.length === 0) return [[imageName, "<none>"]];
  return tags.map((tag) => {
    const split = tag.lastIndexOf(":");
    if (split < 0) return ["errorRepoTag", "errorRepoTag"];
    const name = tag.slice(0, split);
    return [name === "<none>" ? imageName : name, tag.slice(split + 1)];
  });
}
