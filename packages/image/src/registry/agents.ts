/** Connections, kept alive and shared by everything that one client asks: direct, or through a proxy's tunnel. */
import { Agent as HttpAgent, request as httpRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import type { Duplex } from "node:stream";
import {
  connect,
  createSecureContext,
  getCACertificates,
  type SecureContext,
  setDefaultCACertificates,
} from "node:tls";
import { proxyAuthorization } from "./proxy.ts";

/** How to speak TLS to one host. Contents, not paths. */
export interface TlsOptions {
  readonly ca?: readonly string[];
  readonly skipVerify?: boolean;
  /** Client certificates, of which the server's choice is shown. */
  readonly clients?: readonly { readonly cert: string; readonly key: string }[];
}

const COMMON = { keepAlive: true, maxSockets: 16 } as const;

export class Agents {
  readonly #agents = new Map<string, HttpAgent | HttpsAgent>();

  /** `tunnel`: the proxy that an https URL is asked through. */
  agent(
    secure: boolean,
    tls: TlsOptions | undefined,
    tunnel: URL | undefined,
    dialTimeoutMs: number,
  ): HttpAgent | HttpsAgent {
    const key = JSON.stringify([secure, secure ? (tls ?? {}) : {}, tunnel?.href]);
    const known = this.#agents.get(key);
    if (known !== undefined) return known;
    const agent = !secure
      ? new HttpAgent(COMMON)
      : tunnel === undefined
        ? new HttpsAgent({ ...COMMON, ...tlsSettings(tls) })
        : new TunnelAgent(tunnel, tlsSettings(tls), dialTimeoutMs);
    this.#agents.set(key, agent);
    return agent;
  }

  /** Ends idle connections; requests under way go on. */
  close(): void {
    for (const agent of this.#agents.values()) agent.destroy();
    this.#agents.clear();
  }
}

interface TlsSettings {
  readonly rejectUnauthorized: boolean;
  readonly secureContext?: SecureContext;
}

/** Each connection is a CONNECT of the proxy's, with TLS to the host inside. */
class TunnelAgent extends HttpsAgent {
  readonly #proxy: URL;
  readonly #settings: TlsSettings;
  readonly #timeoutMs: number;

  constructor(proxy: URL, settings: TlsSettings, timeoutMs: number) {
    super(COMMON);
    this.#proxy = proxy;
    this.#settings = settings;
    this.#timeoutMs = timeoutMs;
  }

  override createConnection(
    options: { host?: string | null; port?: number | string | null; servername?: string },
    callback?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    const done = callback as (error: Error | null, stream?: Duplex) => void;
    const host = options.host ?? "";
    this.#tunnel(host.includes(":") ? `[${host}]` : host, Number(options.port ?? 443)).then(
      (socket) => {
        // A name only: an address has no server name (RFC 6066, section 3).
        const servername = options.servername === undefined ? {} : { servername: options.servername };
        const secure = connect({ ...this.#settings, socket, ...servername, host, ALPNProtocols: ["http/1.1"] });
        secure.once("error", done);
        secure.once("secureConnect", () => {
          secure.off("error", done);
          done(null, secure);
        });
      },
      (error: Error) => done(error),
    );
  }

  #tunnel(host: string, port: number): Promise<Duplex> {
    const proxy = this.#proxy;
    const target = `${host}:${port}`;
    const authorization = proxyAuthorization(proxy);
    return new Promise((resolve, reject) => {
      const asked = (proxy.protocol === "https:" ? httpsRequest : httpRequest)({
        host: proxy.hostname.replace(/^\[|\]$/g, ""),
        port: proxy.port || (proxy.protocol === "https:" ? 443 : 80),
        method: "CONNECT",
        path: target,
        headers: {
          host: target,
          "user-agent": "berth",
          ...(authorization === undefined ? {} : { "proxy-authorization": authorization }),
        },
        agent: false,
        timeout: this.#timeoutMs,
      });
      asked.once("connect", (response, socket) => {
        if (response.statusCode === 200) return resolve(socket);
        socket.destroy();
        return reject(refusedBy(proxy, target, response.statusCode ?? 0));
      });
      // A proxy that knows no CONNECT answers as to any other request.
      asked.once("response", (response) => {
        response.destroy();
        reject(refusedBy(proxy, target, response.statusCode ?? 0));
      });
      asked.once("timeout", () => asked.destroy(new Error(`the proxy ${proxy.host} does not answer`)));
      asked.once("error", (error: NodeJS.ErrnoException) => reject(proxyError(proxy, error)));
      asked.end();
    });
  }
}

function refusedBy(proxy: URL, target: string, status: number): Error {
  const advice = status === 407 ? ": it wants a user and password, as in http://user:password@proxy:3128" : "";
  return new Error(`the proxy ${proxy.host} answered ${status} to CONNECT ${target}${advice}`);
}

/** As the failure of the proxy, which is somebody else's than the registry's. */
export function proxyError(proxy: URL, error: NodeJS.ErrnoException): Error {
  return new Error(`the proxy ${proxy.host} cannot be used: ${error.message === "" ? error.code : error.message}`, {
    cause: error,
  });
}

let systemTrusted = false;

/** What this machine trusts counts too, as for other container runtimes; reading it takes 30 ms, so only for TLS. */
function trustSystem(): void {
  if (systemTrusted) return;
  systemTrusted = true;
  setDefaultCACertificates([...new Set([...getCACertificates("default"), ...getCACertificates("system")])]);
}

function tlsSettings(tls: TlsOptions | undefined): TlsSettings {
  trustSystem();
  const verify = { rejectUnauthorized: tls?.skipVerify !== true };
  const clients = tls?.clients ?? [];
  if (tls?.ca === undefined && clients.length === 0) return verify;
  // Made once, as it takes 25 ms; left to each connection, it would be made for each.
  const secureContext = createSecureContext({
    ...(tls?.ca === undefined ? {} : { ca: [...getCACertificates("default"), ...tls.ca] }),
    ...(clients.length === 0 ? {} : { cert: clients.map(({ cert }) => cert), key: clients.map(({ key }) => key) }),
  });
  return { ...verify, secureContext };
}
