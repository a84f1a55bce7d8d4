/** A connection to a host that a proxy makes: by HTTP's CONNECT (RFC 9110, section 9.3.6), or by SOCKS 5 (RFC 1928, 1929). */
import { request as httpsRequest } from "node:https";
import { connect, isIP, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { isSocks, proxyAuthorization, proxyLogin } from "./proxy.ts";

// Imported, node:http would load all of undici for three of its names: 16 MB and 50 ms.
const { request: httpRequest } = process.getBuiltinModule("node:http");

/** Rejects with an Error that names the proxy. */
export async function openTunnel(proxy: URL, host: string, port: number, timeoutMs: number): Promise<Duplex> {
  return await (isSocks(proxy) ? openSocks(proxy, host, port, timeoutMs) : openConnect(proxy, host, port, timeoutMs));
}

function openConnect(proxy: URL, host: string, port: number, timeoutMs: number): Promise<Duplex> {
  const target = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  const authorization = proxyAuthorization(proxy);
  return new Promise((resolve, reject) => {
    const asked = (proxy.protocol === "https:" ? httpsRequest : httpRequest)({
      host: addressOf(proxy),
      port: proxy.port || (proxy.protocol === "https:" ? 443 : 80),
      method: "CONNECT",
      path: target,
      headers: {
        host: target,
        "user-agent": "berth",
        ...(authorization === undefined ? {} : { "proxy-authorization": authorization }),
      },
      agent: false,
      timeout: timeoutMs,
    });
    asked.once("connect", (response, socket) => {
      if (response.statusCode === 200) return resolve(socket.setTimeout(0));
      socket.destroy();
      return reject(refusedBy(proxy, target, response.statusCode ?? 0));
    });
    // A proxy that knows no CONNECT answers as to any other request.
    asked.once("response", (response) => {
      response.destroy();
      reject(refusedBy(proxy, target, response.statusCode ?? 0));
    });
    asked.once("timeout", () => asked.destroy(new Error("no answer")));
    asked.once("error", (error: NodeJS.ErrnoException) => reject(proxyError(proxy, error)));
    asked.end();
  });
}

function refusedBy(proxy: URL, target: string, status: number): Error {
  const advice = status === 407 ? ": it wants a user and password, as in http://user:password@proxy:3128" : "";
  return new Error(`the proxy ${proxy.host} answered ${status} to CONNECT ${target}${advice}`);
}

const addressOf = (proxy: URL): string => proxy.hostname.replace(/^\[|\]$/g, "");

/** As the failure of the proxy, which is somebody else's than the registry's. */
export function proxyError(proxy: URL, error: NodeJS.ErrnoException): Error {
  return new Error(`the proxy ${proxy.host} cannot be used: ${error.message === "" ? error.code : error.message}`, {
    cause: error,
  });
}

const VERSION = 5;
const NO_LOGIN = 0;
const LOGIN = 2;
const CONNECT = 1;
/** Address types: with the name the proxy looks it up, as for Go's "socks5" and "socks5h". */
const IPV4 = 1;
const NAME = 3;
const IPV6 = 4;

const REPLIES = [
  "succeeded",
  "general failure",
  "not allowed by its rules",
  "network unreachable",
  "host unreachable",
  "connection refused",
  "time to live expired",
  "command not supported",
  "address type not supported",
];

async function openSocks(proxy: URL, host: string, port: number, timeoutMs: number): Promise<Duplex> {
  const socket = connect({ host: addressOf(proxy), port: Number(proxy.port || 1080) });
  socket.setTimeout(timeoutMs, () => socket.destroy(new Error("no answer")));
  try {
    await greet(socket, proxy);
    socket.write(connectRequest(host, port));
    const [, reply = 1, , type = 0] = await take(socket, 4);
    if (reply !== 0)
      throw new Error(`it says "${REPLIES[reply] ?? `failure ${reply}`}" of the connection to ${host}:${port}`);
    const length = type === IPV4 ? 4 : type === IPV6 ? 16 : ((await take(socket, 1))[0] ?? 0);
    await take(socket, length + 2);
    return socket.setTimeout(0);
  } catch (error) {
    socket.destroy();
    throw proxyError(proxy, error as Error);
  }
}

async function greet(socket: Socket, proxy: URL): Promise<void> {
  const login = proxyLogin(proxy);
  const methods = login === undefined ? [NO_LOGIN] : [NO_LOGIN, LOGIN];
  socket.write(Buffer.from([VERSION, methods.length, ...methods]));
  const [version, method = 0xff] = await take(socket, 2);
  if (version !== VERSION) throw new Error("it does not speak SOCKS 5");
  if (method === NO_LOGIN) return;
  if (method !== LOGIN || login === undefined)
    throw new Error("it wants a user and password, as in socks5://user:password@proxy:1080");
  const [username, password] = [Buffer.from(login.username), Buffer.from(login.password)];
  if (username.length > 255 || password.length > 255) throw new Error("its user or password has more than 255 bytes");
  socket.write(Buffer.concat([Buffer.from([1, username.length]), username, Buffer.from([password.length]), password]));
  const [, status] = await take(socket, 2);
  if (status !== 0) throw new Error("it refuses the user and password");
}

function connectRequest(host: string, port: number): Buffer {
  const family = isIP(host);
  const name = Buffer.from(host);
  if (family === 0 && name.length > 255) throw new Error(`the host name ${host} has more than 255 bytes`);
  const address =
    family === 4
      ? Buffer.from([IPV4, ...host.split(".").map(Number)])
      : family === 6
        ? Buffer.concat([Buffer.from([IPV6]), ipv6Bytes(host)])
        : Buffer.concat([Buffer.from([NAME, name.length]), name]);
  return Buffer.concat([Buffer.from([VERSION, CONNECT, 0]), address, Buffer.from([port >> 8, port & 0xff])]);
}

function ipv6Bytes(address: string): Buffer {
  // The URL parser writes every form as groups of hexadecimal digits, with one "::" at most.
  const [head = "", tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split("::");
  const groups = (text: string | undefined): number[] =>
    text === undefined || text === "" ? [] : text.split(":").map((group) => Number.parseInt(group, 16));
  const [first, last] = [groups(head), groups(tail)];
  const all = [...first, ...Array<number>(8 - first.length - last.length).fill(0), ...last];
  return Buffer.from(all.flatMap((group) => [group >> 8, group & 0xff]));
}

/** Exactly `size` bytes; what comes after them stays in the socket. */
function take(socket: Socket, size: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const finish = (settle: () => void): void => {
      socket.off("readable", read).off("error", fail).off("close", closed);
      settle();
    };
    const fail = (error: Error): void => finish(() => reject(error));
    const closed = (): void => fail(new Error("it closed the connection"));
    const read = (): void => {
      const bytes = socket.read(size) as Buffer | null;
      // At the end of the stream read() gives what is left, which is less.
      if (bytes !== null) finish(() => (bytes.length === size ? resolve(bytes) : reject(new Error("it hung up"))));
    };
    socket.on("readable", read).on("error", fail).on("close", closed);
    read();
  });
}
