/** What plugins answer to ADD, in every edition of the spec, as one type (CNI spec 1.1, section 5). Pure: no I/O. */
import { isIP } from "node:net";
import { type Json, isObject } from "./conf.ts";

export interface CniIp {
  readonly address: string;
  /** Prefix length in bits. */
  readonly prefix: number;
  readonly gateway?: string;
  /** Index into `interfaces`. */
  readonly interface?: number;
}

export interface CniInterface {
  readonly name: string;
  readonly mac?: string;
  readonly mtu?: number;
  /** The network namespace it is in; absent: the host's. */
  readonly sandbox?: string;
}

export interface CniRoute {
  readonly dst: string;
  readonly gw?: string;
  readonly mtu?: number;
  readonly priority?: number;
}

export interface CniDns {
  readonly nameservers: readonly string[];
  readonly domain?: string;
  readonly search: readonly string[];
  readonly options: readonly string[];
}

export interface PluginResult {
  readonly ips: readonly CniIp[];
  readonly interfaces: readonly CniInterface[];
  readonly routes: readonly CniRoute[];
  readonly dns: CniDns;
}

/** Reads an ADD result. Throws an Error that names the field. */
export function parseResult(raw: Json): PluginResult {
  const legacy = isObject(raw["ip4"]) || isObject(raw["ip6"]);
  return {
    ips: legacy ? legacyIps(raw) : list(raw, "ips").map((ip, index) => parseIp(ip, `ips[${index}]`)),
    interfaces: list(raw, "interfaces").map((value, index) => parseInterface(value, `interfaces[${index}]`)),
    routes: legacy
      ? legacyRoutes(raw)
      : list(raw, "routes").map((route, index) => parseRoute(route, `routes[${index}]`)),
    dns: parseDns(raw["dns"]),
  };
}

/**
 * The addresses of interface `ifName` inside the sandbox, in the plugins' order. An address that names no interface is
 * the sandbox's (editions before 0.3.0 have no interfaces, and IPAM-only plugins give none).
 */
export function sandboxAddresses(result: PluginResult, ifName: string): CniIp[] {
  return result.ips.filter((ip) => {
    const owner = ip.interface === undefined ? undefined : result.interfaces[ip.interface];
    return owner === undefined || (owner.sandbox !== undefined && owner.name === ifName);
  });
}

function list(raw: Json, field: string): readonly unknown[] {
  const value = raw[field];
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw new Error(`${field}: must be a list`);
  return value;
}

function parseIp(value: unknown, at: string): CniIp {
  if (!isObject(value)) throw new Error(`${at}: must be an object`);
  const owner = value["interface"];
  if (owner !== undefined && owner !== null && (typeof owner !== "number" || !Number.isInteger(owner)))
    throw new Error(`${at}.interface: must be an index`);
  return {
    ...parseCidr(value["address"], `${at}.address`),
    ...optionalString(value, "gateway"),
    // Some plugins write -1 for "none".
    ...(typeof owner === "number" && owner >= 0 ? { interface: owner } : {}),
  };
}

function parseCidr(value: unknown, at: string): { address: string; prefix: number } {
  const [address = "", bits = ""] = typeof value === "string" ? value.split("/") : [];
  const family = isIP(address);
  const prefix = Number(bits);
  if (family === 0 || !/^\d+$/.test(bits) || prefix > (family === 4 ? 32 : 128)) {
    throw new Error(`${at}: ${JSON.stringify(value)} is not an address with a prefix length`);
  }
  return { address, prefix };
}

function parseInterface(value: unknown, at: string): CniInterface {
  if (!isObject(value) || typeof value["name"] !== "string") throw new Error(`${at}.name: must be an interface name`);
  const mtu = value["mtu"];
  const sandbox = value["sandbox"];
  return {
    name: value["name"],
    ...optionalString(value, "mac"),
    ...(typeof mtu === "number" ? { mtu } : {}),
    ...(typeof sandbox === "string" && sandbox !== "" ? { sandbox } : {}),
  };
}

function parseRoute(value: unknown, at: string): CniRoute {
  if (!isObject(value) || typeof value["dst"] !== "string") throw new Error(`${at}.dst: must be a subnet`);
  const { mtu, priority } = value;
  return {
    dst: value["dst"],
    ...optionalString(value, "gw"),
    ...(typeof mtu === "number" ? { mtu } : {}),
    ...(typeof priority === "number" ? { priority } : {}),
  };
}

function parseDns(value: unknown): CniDns {
  const dns = isObject(value) ? value : {};
  const strings = (field: string) => list(dns, field).filter((item): item is string => typeof item === "string");
  return {
    nameservers: strings("nameservers"),
    ...optionalString(dns, "domain"),
    search: strings("search"),
    options: strings("options"),
  };
}

/** Editions 0.1.0 and 0.2.0: at most one address per family, each with its routes. */
function legacyIps(raw: Json): CniIp[] {
  return ["ip4", "ip6"].flatMap((family) => {
    const value = raw[family];
    return isObject(value) ? [{ ...parseCidr(value["ip"], `${family}.ip`), ...optionalString(value, "gateway") }] : [];
  });
}

function legacyRoutes(raw: Json): CniRoute[] {
  return ["ip4", "ip6"].flatMap((family) => {
    const value = raw[family];
    return isObject(value)
      ? list(value, "routes").map((route, index) => parseRoute(route, `${family}.routes[${index}]`))
      : [];
  });
}

function optionalString<K extends string>(value: Json, field: K): { readonly [P in K]?: string } {
  const text = value[field];
  return (typeof text === "string" && text !== "" ? { [field]: text } : {}) as { readonly [P in K]?: string };
}
