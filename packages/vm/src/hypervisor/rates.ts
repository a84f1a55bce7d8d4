/** Limits of a machine's devices, as the configuration has them: in bits and operations a second. */
import type { VmSettings } from "../configuration/settings.ts";
import { type Rate, type Rates, UNLIMITED } from "./machine.ts";

const BITS = 8;
const NONE: Rate = UNLIMITED.bytes;

const bits = (perSecond: number, burst = 0): Rate =>
  perSecond <= 0 ? NONE : { perSecond: Math.max(1, Math.floor(perSecond / BITS)), burst: Math.floor(burst / BITS) };

const operations = (perSecond: number, burst: number): Rate => (perSecond <= 0 ? NONE : { perSecond, burst });

export function diskRates({ name, hypervisor: own }: VmSettings): Rates {
  if (name !== "clh") return UNLIMITED;
  return {
    bytes: bits(own.disk_rate_limiter_bw_max_rate, own.disk_rate_limiter_bw_one_time_burst),
    operations: operations(own.disk_rate_limiter_ops_max_rate, own.disk_rate_limiter_ops_one_time_burst),
  };
}

/** What the guest receives, and what it sends. */
export function nicRates({ name, hypervisor: own }: VmSettings): { readonly rx: Rates; readonly tx: Rates } {
  if (name === "clh") {
    const both = {
      bytes: bits(own.net_rate_limiter_bw_max_rate, own.net_rate_limiter_bw_one_time_burst),
      operations: operations(own.net_rate_limiter_ops_max_rate, own.net_rate_limiter_ops_one_time_burst),
    };
    return { rx: both, tx: both };
  }
  const { operations: none } = UNLIMITED;
  return {
    rx: { bytes: bits(own.rx_rate_limiter_max_rate), operations: none },
    tx: { bytes: bits(own.tx_rate_limiter_max_rate), operations: none },
  };
}
