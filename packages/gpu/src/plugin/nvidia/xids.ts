/** Which of NVIDIA's critical errors (XIDs) make a device unhealthy: those that are not an application's own fault. */

/** Graphics exception, page fault, stopped processing, preemptive clean-up, video exception, context switch time-out. */
const HARMLESS = [13, 31, 43, 45, 68, 109];

export interface XidRules {
  /** No events are watched at all. */
  readonly off: boolean;
  isIgnored(xid: number): boolean;
}

/** `disabled`, `enabled`: DP_DISABLE_HEALTHCHECKS and DP_ENABLE_HEALTHCHECKS: numbers with commas, or "all" (or "xids"); the second wins. */
export function xidRules(
  disabled: string | undefined,
  enabled: string | undefined,
  warn: (text: string) => void,
): XidRules {
  const [off, on] = [parse(disabled, warn), parse(enabled, warn)];
  return {
    off: off === "all" && on !== "all" && on.length === 0,
    isIgnored: (xid) => {
      if (on === "all" || on.includes(xid)) return false;
      return off === "all" || off.includes(xid) || HARMLESS.includes(xid);
    },
  };
}

function parse(list: string | undefined, warn: (text: string) => void): "all" | readonly number[] {
  const words = (list ?? "")
    .toLowerCase()
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
  if (words.some((word) => word === "all" || word === "xids")) return "all";
  return words.flatMap((word) => {
    if (/^\d+$/.test(word)) return [Number(word)];
    warn(`ignoring malformed XID ${JSON.stringify(word)}`);
    return [];
  });
}
