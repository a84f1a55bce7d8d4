/** Whether the name that a signature is for is the name of the image: `signedIdentity` of containers-policy.json(5). */
import {
  formatReference,
  InvalidReference,
  parseReference,
  type Reference,
  repositoryOf,
  withDefaultTag,
} from "@berth/spec/oci";

export type Identity =
  | { readonly type: "matchExact" | "matchRepoDigestOrExact" | "matchRepository" }
  | { readonly type: "exactReference" | "exactRepository"; readonly name: string }
  | { readonly type: "remapIdentity"; readonly prefix: string; readonly signedPrefix: string };

/** Default: matchRepoDigestOrExact. `wrong` makes the error that is thrown. */
export function parseIdentity(value: unknown, wrong: (message: string) => Error): Identity {
  if (value === undefined) return { type: "matchRepoDigestOrExact" };
  const { type, ...rest } = value as Record<string, unknown>;
  const text = (key: string): string => {
    const found = rest[key];
    if (typeof found !== "string" || found === "") throw wrong(`.${key} must be a string`);
    return found;
  };
  const only = (...known: readonly string[]): void => {
    for (const key of Object.keys(rest)) if (!known.includes(key)) throw wrong(`: unknown key "${key}"`);
  };
  switch (type) {
    case "matchExact":
    case "matchRepoDigestOrExact":
    case "matchRepository":
      only();
      return { type };
    case "exactReference":
      only("dockerReference");
      return { type, name: text("dockerReference") };
    case "exactRepository":
      only("dockerRepository");
      return { type, name: text("dockerRepository") };
    case "remapIdentity":
      only("prefix", "signedPrefix");
      return { type, prefix: text("prefix"), signedPrefix: text("signedPrefix") };
    default:
      throw wrong(`.type ${JSON.stringify(type)} is unknown`);
  }
}

/** `image` is the name it is pulled by, `signed` what the signature says. */
export function identityMatches(identity: Identity, image: Reference, signed: string): boolean {
  const name = parsed(signed);
  if (name === undefined) return false;
  switch (identity.type) {
    case "matchExact":
      return image.digest === undefined && isExact(name, image);
    case "matchRepoDigestOrExact":
      return matchesTagOrRepository(name, image);
    case "matchRepository":
      return repositoryOf(name) === repositoryOf(image);
    case "exactReference": {
      const wanted = parsed(identity.name);
      return wanted !== undefined && isExact(name, wanted);
    }
    case "exactRepository": {
      const wanted = parsed(identity.name);
      return wanted !== undefined && repositoryOf(name) === repositoryOf(wanted);
    }
    case "remapIdentity": {
      const wanted = parsed(remapped(identity, formatReference(image)));
      return wanted !== undefined && matchesTagOrRepository(name, wanted);
    }
  }
}

/** By digest the content itself is sure, and a tag says nothing of it. */
function matchesTagOrRepository(signed: Reference, image: Reference): boolean {
  return image.digest === undefined ? isExact(signed, image) : repositoryOf(signed) === repositoryOf(image);
}

/** A signature without a tag, as cosign makes them, is exactly nothing. */
function isExact(signed: Reference, wanted: Reference): boolean {
  if (signed.tag === undefined && signed.digest === undefined) return false;
  return formatReference(signed) === formatReference(withDefaultTag(wanted));
}

function remapped({ prefix, signedPrefix }: { prefix: string; signedPrefix: string }, name: string): string {
  const matches = name === prefix || ["/", ":", "@"].some((end) => name.startsWith(prefix + end));
  // "host" is no prefix of "host:5000/a": that is another host.
  const isHost = !prefix.includes("/") && name.startsWith(`${prefix}:`);
  return matches && !isHost ? signedPrefix + name.slice(prefix.length) : name;
}

function parsed(text: string): Reference | undefined {
  try {
    return parseReference(text);
  } catch (error) {
    if (error instanceof InvalidReference) return undefined;
    throw error;
  }
}
