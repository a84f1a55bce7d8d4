/**
 * Authentication to registries: RFC 9110 challenges, Basic (RFC 7617), and the token servers of the distribution
 * project ("Token Authentication Specification", "OAuth2 Token Authentication").
 */
import { ImageError } from "../errors.ts";
import type { Credentials } from "../types.ts";
import { type HttpClient, isLoopback, printableUrl, readBody, type TlsOptions } from "./http.ts";
import type { ProxySettings } from "./proxy.ts";
import { isTransientStatus, parseRetryAfter, Transient } from "./retry.ts";

export interface Challenge {
  /** Lower-case. */
  readonly scheme: string;
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** What to send as Authorization, and until when (ms since the epoch). */
export interface Authorization {
  readonly header: string;
  readonly expiresAt: number;
  /** What to answer again when it has ended. */
  readonly renewal?: { readonly url: string; readonly challenges: readonly Challenge[] };
}

const CHALLENGE_MAX = 16 * 1024;
const TOKEN_MAX = 1 << 20;
const DEFAULT_TOKEN_SECONDS = 60;
const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";

/** Every challenge of a WWW-Authenticate header, in order; several may share one line. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: { scheme: string; parameters: Map<string, string> }[] = [];
  const lexer = new RegExp(
    `[\\s,]*(?:(${TOKEN})\\s*=\\s*(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s,"]+))|(${TOKEN})(?=\\s|,|$))`,
    "y",
  );
  const text = header.slice(0, CHALLENGE_MAX);
  for (let match = lexer.exec(text); match !== null && match[0] !== ""; match = lexer.exec(text)) {
    const [, name, quoted, plain, scheme] = match;
    if (scheme !== undefined) challenges.push({ scheme: scheme.toLowerCase(), parameters: new Map() });
    else if (name !== undefined)
      challenges
        .at(-1)
        ?.parameters.set(name.toLowerCase(), quoted === undefined ? (plain ?? "") : quoted.replace(/\\(.)/g, "$1"));
  }
  return challenges;
}

/** What credential helpers name a user whose password is an identity token. */
const TOKEN_USER = "<token>";

function identityOf({ identityToken, username, password }: Credentials): string {
  return identityToken || (username === TOKEN_USER ? (password ?? "") : "");
}

interface Login {
  readonly username: string;
  readonly password: string;
}

/** User and password, from either of the two forms that the CRI has. Throws Unauthorized where `auth` is malformed. */
export function loginOf(credentials: Credentials): Login | undefined {
  if (credentials.username !== undefined && credentials.username !== "" && credentials.username !== TOKEN_USER)
    return { username: credentials.username, password: credentials.password ?? "" };
  if (credentials.auth === undefined || credentials.auth === "") return undefined;
  const decoded = Buffer.from(credentials.auth, "base64").toString("utf8").replace(/\0+$/, "");
  const colon = decoded.indexOf(":");
  if (colon < 0)
    throw new ImageError("Unauthorized", 'the credentials\' "auth" is not the base64 of "username:password"');
  return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
}

export interface Authorizer {
  readonly http: HttpClient;
  readonly credentials: Credentials | undefined;
  readonly tls: TlsOptions | undefined;
  readonly proxy?: ProxySettings | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * What answers a 401. `registry` is the URL that asked; `scopes` are asked for with those that the challenge names.
 * Undefined: there is nothing (more) to offer. Throws ImageError or Transient.
 */
export async function authorize(
  challenges: readonly Challenge[],
  registry: URL,
  scopes: readonly string[],
  by: Authorizer,
): Promise<Authorization | undefined> {
  const bearer = challenges.find((challenge) => challenge.scheme === "bearer");
  if (bearer !== undefined) return await bearerToken(bearer, registry, scopes, by);
  const basic = challenges.find((challenge) => challenge.scheme === "basic");
  const login = by.credentials === undefined ? undefined : loginOf(by.credentials);
  if (basic === undefined || login === undefined) return undefined;
  return { header: basicHeader(login), expiresAt: Number.POSITIVE_INFINITY };
}

export function basicHeader({ username, password }: Login): string {
  return `Basic ${Buffer.from(`${username}:${password}`, "utf8").toString("base64")}`;
}

async function bearerToken(
  challenge: Challenge,
  registry: URL,
  scopes: readonly string[],
  by: Authorizer,
): Promise<Authorization> {
  const realm = realmOf(challenge, registry);
  const service = challenge.parameters.get("service") ?? "";
  const wanted = mergeScopes([...scopes, ...(challenge.parameters.get("scope") ?? "").split(" ")]);
  const login = by.credentials === undefined ? undefined : loginOf(by.credentials);
  const identity = by.credentials === undefined ? "" : identityOf(by.credentials);
  const secret = login !== undefined || identity !== "";
  if (secret && realm.protocol === "http:" && registry.protocol === "https:" && !isLoopback(realm.hostname)) {
    throw new ImageError(
      "Unauthorized",
      `${printableUrl(registry)} sends its credentials to plain HTTP at ${realm.host}: refused`,
      { url: printableUrl(realm) },
    );
  }
  const form = { service, scope: wanted.join(" "), client_id: "berth" };
  if (identity !== "")
    return await postToken(realm, { ...form, grant_type: "refresh_token", refresh_token: identity }, by);
  const url = new URL(realm);
  if (service !== "") url.searchParams.set("service", service);
  for (const scope of wanted) url.searchParams.append("scope", scope);
  const headers: Record<string, string> = login === undefined ? {} : { authorization: basicHeader(login) };
  try {
    return await askToken(url, { method: "GET", headers }, by);
  } catch (error) {
    // A server of the OAuth2 form alone knows no GET.
    if (login === undefined || !(error instanceof ImageError) || (error.status !== 404 && error.status !== 405))
      throw error;
    return await postToken(realm, { ...form, grant_type: "password", ...login }, by);
  }
}

/** One scope for each resource, with the actions of all that name it. */
export function mergeScopes(scopes: readonly string[]): string[] {
  const actions = new Map<string, Set<string>>();
  for (const scope of scopes) {
    const colon = scope.lastIndexOf(":");
    if (scope === "") continue;
    const resource = colon < 0 ? scope : scope.slice(0, colon);
    const known = actions.get(resource) ?? new Set();
    if (colon >= 0) for (const action of scope.slice(colon + 1).split(",")) known.add(action);
    actions.set(resource, known);
  }
  return [...actions].map(([resource, names]) => (names.size === 0 ? resource : `${resource}:${[...names].join(",")}`));
}

function realmOf(challenge: Challenge, registry: URL): URL {
  const realm = challenge.parameters.get("realm") ?? "";
  const url = URL.parse(realm, registry);
  if (realm === "" || url === null || (url.protocol !== "https:" && url.protocol !== "http:")) {
    throw new ImageError(
      "RegistryError",
      `${printableUrl(registry)} asks for a bearer token from "${realm}", which is no HTTP URL`,
      { url: printableUrl(registry) },
    );
  }
  return url;
}

async function postToken(realm: URL, form: Record<string, string>, by: Authorizer): Promise<Authorization> {
  return await askToken(
    realm,
    {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: new URLSearchParams(form).toString(),
    },
    by,
  );
}

async function askToken(
  realm: URL,
  request: { method: "GET" | "POST"; headers: Record<string, string>; body?: string },
  by: Authorizer,
): Promise<Authorization> {
  const response = await by.http.request({ ...request, url: realm, tls: by.tls, proxy: by.proxy, signal: by.signal });
  const where = `token server ${printableUrl(realm)}`;
  const body = await readBody(response, TOKEN_MAX, `the answer of ${where}`, by.signal);
  const fields = { status: response.status, url: printableUrl(realm) };
  if (isTransientStatus(response.status))
    throw new Transient(
      new ImageError(
        response.status === 429 ? "RateLimited" : "Unavailable",
        `${where} answered ${response.status}`,
        fields,
      ),
      parseRetryAfter(response.headers["retry-after"]),
    );
  if (response.status === 400 || response.status === 401 || response.status === 403)
    throw new ImageError(
      "Unauthorized",
      `${where} answered ${response.status}: check the user name and password${detailOf(body)}`,
      fields,
    );
  if (response.status !== 200)
    throw new ImageError("RegistryError", `${where} answered ${response.status}${detailOf(body)}`, fields);
  return tokenOf(body, where);
}

function tokenOf(body: Buffer, where: string): Authorization {
  let answer: unknown;
  try {
    answer = JSON.parse(body.toString("utf8"));
  } catch (error) {
    throw new ImageError("RegistryError", `${where} answered no JSON`, { cause: error });
  }
  const { token, access_token: accessToken, expires_in: seconds } = (answer ?? {}) as Record<string, unknown>;
  const value = typeof token === "string" && token !== "" ? token : accessToken;
  if (typeof value !== "string" || value === "" || /[\r\n]/.test(value))
    throw new ImageError("RegistryError", `${where} answered no token`);
  const lifetime = typeof seconds === "number" && seconds > 0 ? seconds : DEFAULT_TOKEN_SECONDS;
  // Renewed a little before its end, so that no request is under way when it comes.
  return { header: `Bearer ${value}`, expiresAt: Date.now() + lifetime * 900 };
}

/** What a registry's error body says, for a message: ": <code>: <message>", or nothing. */
export function detailOf(body: Buffer): string {
  try {
    const { errors, details, message } = JSON.parse(body.toString("utf8")) as {
      errors?: { code?: string; message?: string }[];
      details?: string;
      message?: string;
    };
    const told = errors?.[0]?.message ?? errors?.[0]?.code ?? details ?? message;
    return typeof told === "string" && told !== "" ? `: ${told.slice(0, 300)}` : "";
  } catch {
    // Not JSON: a proxy's HTML page says nothing that the status does not.
    return "";
  }
}
