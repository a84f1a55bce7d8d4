/**
 * docker's config.json, which `docker login`, `nerdctl login` and `berth login` share: credentials by registry, in the file or
 * with a credential helper (docker's docs, "Credential stores"; github.com/docker/docker-credential-helpers for its protocol).
 */
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { randomUUID } from "node:crypto";
import { dirname } from "node:path";
import { ImageError } from "../errors.ts";
import type { Credentials } from "../types.ts";
import { loginOf } from "./auth.ts";
import { credentialHost } from "./credentials.ts";

/** Runs a helper to its end. Rejects where it cannot be run. */
export type RunHelper = (
  program: string,
  verb: "get" | "store" | "erase",
  stdin: string,
) => Promise<{ readonly status: number; readonly stdout: string; readonly stderr: string }>;

interface Document {
  auths?: Record<
    string,
    { auth?: string; username?: string; password?: string; identitytoken?: string; registrytoken?: string }
  >;
  credsStore?: string;
  credHelpers?: Record<string, string>;
}

/** What docker calls Docker Hub, in the file and to helpers. */
const DOCKER_HUB = "https://index.docker.io/v1/";
/** The user name with which helpers say that the secret is an identity token. */
const TOKEN_USER = "<token>";
/** How helpers say that they know nothing of a server. */
const NOT_FOUND = /credentials not found/i;

export class DockerConfig {
  readonly #path: string;
  readonly #document: Document;
  readonly #run: RunHelper;

  private constructor(path: string, document: Document, run: RunHelper) {
    this.#path = path;
    this.#document = document;
    this.#run = run;
  }

  /** A file that is not there is an empty one. Rejects with ImageError InvalidConfiguration. */
  static async read(path: string, run: RunHelper): Promise<DockerConfig> {
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT" || code === "ENOTDIR") return new DockerConfig(path, {}, run);
      throw invalid(path, `cannot be read: ${(error as Error).message}`);
    }
    try {
      const document: unknown = text.trim() === "" ? {} : JSON.parse(text);
      if (typeof document === "object" && document !== null && !Array.isArray(document))
        return new DockerConfig(path, document, run);
    } catch (error) {
      throw invalid(path, `is no JSON: ${(error as Error).message}`);
    }
    throw invalid(path, "is no JSON object");
  }

  /** For a registry's host; undefined: none are stored. Rejects with ImageError. */
  async find(host: string): Promise<Credentials | undefined> {
    const helper = this.#helperFor(host);
    if (helper !== undefined) return await this.#ask(helper, host);
    for (const [key, entry] of Object.entries(this.#document.auths ?? {})) {
      if (credentialHost(key) !== credentialHost(host)) continue;
      const found = credentialsOf(entry);
      if (found !== undefined) return this.#checked(found, key);
    }
    return undefined;
  }

  /** Where they went: the file's path, or the helper's name. Rejects with ImageError. */
  async save(host: string, credentials: Credentials): Promise<string> {
    const helper = this.#helperFor(host);
    const { identityToken } = credentials;
    const login = loginOf(credentials) ?? { username: "", password: "" };
    if (helper !== undefined) {
      const [Username, Secret] =
        identityToken === undefined ? [login.username, login.password] : [TOKEN_USER, identityToken];
      await this.#call(helper, "store", JSON.stringify({ ServerURL: keyOf(host), Username, Secret }));
      return helper;
    }
    const auth = Buffer.from(`${login.username}:${login.password}`).toString("base64");
    const auths = this.#withoutHost(host);
    auths[keyOf(host)] = { auth, ...(identityToken === undefined ? {} : { identitytoken: identityToken }) };
    await this.#write({ ...this.#document, auths });
    return this.#path;
  }

  /** Whether there was anything to forget. Rejects with ImageError. */
  async forget(host: string): Promise<boolean> {
    const known = (await this.find(host)) !== undefined;
    const helper = this.#helperFor(host);
    if (helper !== undefined && known) await this.#call(helper, "erase", keyOf(host));
    const auths = this.#withoutHost(host);
    if (Object.keys(auths).length < Object.keys(this.#document.auths ?? {}).length)
      await this.#write({ ...this.#document, auths });
    return known;
  }

  #helperFor(host: string): string | undefined {
    const { credHelpers = {}, credsStore } = this.#document;
    const own = Object.entries(credHelpers).find(([key]) => credentialHost(key) === credentialHost(host))?.[1];
    const name = own ?? credsStore;
    if (name === undefined || name === "") return undefined;
    // It becomes part of a program's name.
    if (!/^[A-Za-z0-9_.-]+$/.test(name)) throw invalid(this.#path, `"${name}" is no name of a credential helper`);
    return `docker-credential-${name}`;
  }

  async #ask(helper: string, host: string): Promise<Credentials | undefined> {
    const { status, stdout, stderr } = await this.#start(helper, "get", keyOf(host));
    if (status !== 0 && NOT_FOUND.test(stdout + stderr)) return undefined;
    if (status !== 0) throw failed(helper, "get", stdout + stderr);
    let answer: { Username?: unknown; Secret?: unknown };
    try {
      answer = (JSON.parse(stdout) ?? {}) as typeof answer;
    } catch {
      throw failed(helper, "get", "its answer is no JSON");
    }
    const { Username: username, Secret: secret } = answer;
    if (typeof username !== "string" || typeof secret !== "string")
      throw failed(helper, "get", "its answer has no Username or no Secret");
    return username === TOKEN_USER ? { identityToken: secret } : { username, password: secret };
  }

  async #call(helper: string, verb: "store" | "erase", stdin: string): Promise<void> {
    const { status, stdout, stderr } = await this.#start(helper, verb, stdin);
    if (status !== 0) throw failed(helper, verb, stdout + stderr);
  }

  async #start(helper: string, verb: "get" | "store" | "erase", stdin: string): ReturnType<RunHelper> {
    try {
      return await this.#run(helper, verb, stdin);
    } catch (error) {
      throw failed(helper, verb, (error as Error).message);
    }
  }

  #checked(credentials: Credentials, key: string): Credentials {
    try {
      loginOf(credentials);
      return credentials;
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      throw invalid(this.#path, `auths["${key}"].auth is not the base64 form of user:password; log in again`);
    }
  }

  #withoutHost(host: string): NonNullable<Document["auths"]> {
    const others = Object.entries(this.#document.auths ?? {}).filter(
      ([key]) => credentialHost(key) !== credentialHost(host),
    );
    return Object.fromEntries(others);
  }

  /** What else is in the file stays. */
  async #write(document: Document): Promise<void> {
    const temporary = `${this.#path}.${randomUUID()}`;
    try {
      await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 });
      await writeFile(temporary, `${JSON.stringify(document, undefined, "\t")}\n`, { mode: 0o600, flag: "wx" });
      await rename(temporary, this.#path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw invalid(this.#path, `cannot be written: ${(error as Error).message}`);
    }
  }
}

function credentialsOf(entry: NonNullable<Document["auths"]>[string]): Credentials | undefined {
  const { auth, username, password, identitytoken, registrytoken } = entry;
  if (registrytoken) return { registryToken: registrytoken };
  if (identitytoken) return { identityToken: identitytoken };
  if (auth) return { auth };
  return username ? { username, password: password ?? "" } : undefined;
}

const keyOf = (host: string): string => (credentialHost(host) === "docker.io" ? DOCKER_HUB : host);

function invalid(path: string, message: string): ImageError {
  return new ImageError("InvalidConfiguration", `${path} ${message}`);
}

function failed(helper: string, verb: string, message: string): ImageError {
  return new ImageError("InvalidConfiguration", `${helper} ${verb} failed: ${message.trim()}`);
}
