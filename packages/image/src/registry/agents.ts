/** Connections, kept alive and shared by everything that one client asks: direct, or through a proxy's tunnel. */
import type { Agent as PlainAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import type { Duplex } from "node:stream";
import {
  connect,
  createSecureContext,
  getCACertificates,
  type SecureContext,
  setDefaultCACertificates,
} from "node:tls";
import { openTunnel } from "./tunnel.ts";

// Imported, node:http would load all of undici for three of its names: 16 MB and 50 ms.
const { Agent: HttpAgent } = process.getBuiltinModule("node:http");

/** How to speak TLS to one host. Contents, not paths. */
export interface TlsOptions {
  readonly ca?: readonly string[];
  readonly skipVerify?: boolean;
  /** Client certificates, of which the server's choice is shown. */
  readonly clients?: readonly { readonly cert: string; readonly key: string }[];
}

const COMMON = { keepAlive: true, maxSockets: 16 } as const;

export class Agents {
  readonly #agents = new Map<string, PlainAgent | HttpsAgent>();

  /** `tunnel`: the proxy that connections go through. */
  agent(
    secure: boolean,
    tls: TlsOptions | undefined,
    tunnel: URL | undefined,
    dialTimeoutMs: number,
  ): PlainAgent | HttpsAgent {
    const key = JSON.stringify([secure, secure ? (tls ?? {}) : {}, tunnel?.href]);
    const known = this.#agents.get(key);
    if (known !== undefined) return known;
    const agent = secure
      ? tunnel === undefined
        ? new HttpsAgent({ ...COMMON, ...tlsSettings(tls) })
        : new SecureTunnels(tunnel, tlsSettings(tls), dialTimeoutMs)
      : tunnel === undefined
        ? new HttpAgent(COMMON)
        : new PlainTunnels(tunnel, dialTimeoutMs);
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

/** Each connection is a tunnel of the proxy's, with TLS to the host inside. */
class SecureTunnels extends HttpsAgent {
  readonly #proxy: URL;
  readonly #settings: TlsSettings;
  readonly #timeoutMs: number;

  constructor(proxy: URL, settings: TlsSettings, timeoutMs: number) {
    super(COMMON);
    this.#proxy = proxy;
    this.#settings = settings;
    this.#timeoutMs = timeoutMs;
  }

  override createConnection(options: Target & { servername?: string }, callback?: Connected): undefined {
    const done = callback as (error: Error | null, stream?: Duplex) => void;
    openTunnel(this.#proxy, hostOf(options), Number(options.port ?? 443), this.#timeoutMs).then(
      (socket) => {
        // A name only: an address has no server name (RFC 6066, section 3).
        const servername = options.servername === undefined ? {} : { servername: options.servername };
        const host = hostOf(options);
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
}

/** Through a SOCKS proxy, which knows nothing of HTTP. */
class PlainTunnels extends HttpAgent {
  readonly #proxy: URL;
  readonly #timeoutMs: number;

  constructor(proxy: URL, timeoutMs: number) {
    super(COMMON);
    this.#proxy = proxy;
    this.#timeoutMs = timeoutMs;
  }

  override createConnection(options: Target, callback?: Connected): undefined {
    const done = callback as (error: Error | null, stream?: Duplex) => void;
    openTunnel(this.#proxy, hostOf(options), Number(options.port ?? 80), this.#timeoutMs).then(
      (socket) => done(null, socket),
      (error: Error) => done(error),
    );
  }
}

interface Target {
  readonly host?: string | null;
  readonly port?: number | string | null;
}
type Connected = (error: Error | null, stream: Duplex) => void;

const hostOf = ({ host }: Target): string => host ?? "";

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
