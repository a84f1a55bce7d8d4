/** A cluster's API server, as far as one pod needs it: by its service account, or by a kubeconfig file. */
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { StrictDocument, type Value } from "@berth/cdi";

export interface KubeAccess {
  /** "https://10.0.0.1:443". */
  readonly server: string;
  readonly authority: string | Buffer | undefined;
  readonly insecure: boolean;
  /** Read for each request: a service account's token changes. */
  readonly token: () => string | undefined;
  readonly certificate: string | Buffer | undefined;
  readonly key: string | Buffer | undefined;
}

export interface KubeAnswer {
  readonly status: number;
  /** Of JSON; undefined where it is none. */
  readonly body: unknown;
}

export const SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";
const TIMEOUT_MS = 30_000;

/** Of the pod that this process is in. Throws Error where it is in none. */
export function inCluster(env: NodeJS.ProcessEnv, directory = SERVICE_ACCOUNT): KubeAccess {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = env;
  if (!host || !port)
    throw new Error(
      "this is no pod of a cluster: KUBERNETES_SERVICE_HOST is not set (outside of one, --kubeconfig says where the API server is)",
    );
  return {
    server: `https://${host.includes(":") ? `[${host}]` : host}:${port}`,
    authority: readFileSync(`${directory}/ca.crt`),
    insecure: false,
    token: () => readFileSync(`${directory}/token`, "utf8").trim(),
    certificate: undefined,
    key: undefined,
  };
}

/** Of the file's current context. Throws CdiError with the place of what is wrong, and Error for users that a program stands for. */
export function byKubeconfig(file: string): KubeAccess {
  const root = StrictDocument.parse(readFileSync(file, "utf8"), file).root();
  const text = (value: Value | undefined, name: string): string | undefined => value?.field(name)?.string();
  const named = (list: string, part: string, name: string | undefined): Value => {
    const all = root.field(list)?.list((item) => item) ?? [];
    const found = all.find((item) => text(item, "name") === name)?.field(part);
    if (found === undefined) throw new Error(`${file}: ${list} has no ${JSON.stringify(name ?? "")}`);
    return found;
  };
  const context = named("contexts", "context", text(root, "current-context"));
  const cluster = named("clusters", "cluster", text(context, "cluster"));
  const user = named("users", "user", text(context, "user"));
  for (const program of ["exec", "auth-provider"])
    if (user.field(program))
      throw new Error(
        `${file}: a user's ${JSON.stringify(program)} is not supported: give it a token or a certificate`,
      );
  const path = (name: string): string => resolve(dirname(file), name);
  const content = (of: Value, name: string): string | Buffer | undefined => {
    const data = text(of, `${name}-data`);
    if (data !== undefined) return Buffer.from(data, "base64");
    const from = text(of, name);
    return from === undefined ? undefined : readFileSync(path(from));
  };
  const server = text(cluster, "server");
  if (server === undefined) throw cluster.fail('"server" is missing');
  const tokenFile = text(user, "tokenFile");
  return {
    server: server.replace(/\/+$/, ""),
    authority: content(cluster, "certificate-authority"),
    insecure: cluster.field("insecure-skip-tls-verify")?.boolean() ?? false,
    token: () => (tokenFile === undefined ? text(user, "token") : readFileSync(path(tokenFile), "utf8").trim()),
    certificate: content(user, "client-certificate"),
    key: content(user, "client-key"),
  };
}

/** `path`: with "/" at its beginning. Rejects where no server answers in time. */
export async function request(access: KubeAccess, method: string, path: string, body?: object): Promise<KubeAnswer> {
  const url = new URL(`${access.server}${path}`);
  // Imported, node:http would load all of undici for a few of its names.
  const { request: send } = process.getBuiltinModule(url.protocol === "http:" ? "node:http" : "node:https");
  const token = access.token();
  const { promise, resolve: done, reject } = Promise.withResolvers<KubeAnswer>();
  const sent = send(
    url,
    {
      method,
      headers: {
        accept: "application/json",
        ...(body && { "content-type": "application/json" }),
        ...(token && { authorization: `Bearer ${token}` }),
      },
      timeout: TIMEOUT_MS,
      ...(access.authority && { ca: access.authority }),
      ...(access.certificate && { cert: access.certificate }),
      ...(access.key && { key: access.key }),
      rejectUnauthorized: !access.insecure,
    },
    (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk)).on("error", reject);
      response.on("end", () => done({ status: response.statusCode ?? 0, body: json(Buffer.concat(chunks)) }));
    },
  );
  sent.on("error", reject).on("timeout", () => sent.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
  sent.end(body && JSON.stringify(body));
  try {
    return await promise;
  } catch (error) {
    throw new Error(`${method} ${url.href}: ${(error as Error).message}`, { cause: error });
  }
}

function json(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString()) as unknown;
  } catch {
    return undefined;
  }
}
