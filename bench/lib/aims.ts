/** What berth promises of its speed and size, beside what was measured. */
import { median, percentile } from "./figures.ts";

/** `most`: of the peer's figure, or, with `unit`, of berth's own. */
interface Aim {
  readonly most: number;
  readonly unit?: string;
}

export interface Figure {
  readonly name: string;
  readonly unit: "ms" | "KB" | "MB";
  readonly berth: number;
  readonly peer: number;
  /** Nine of ten were no more than this. */
  readonly p90?: readonly [berth: number, peer: number];
  /** What the CNI plugins take of it when they run alone. */
  readonly plugins?: number;
  readonly aim?: Aim;
}

export const HEADING = ["", "unit", "berth", "p90", "containerd", "p90", "CNI alone", "ratio", "aim", "met"];

export function row({ name, unit, berth, peer, p90, plugins, aim }: Figure): string[] {
  const digits = unit === "ms" || unit === "MB" ? 1 : 0;
  const shown = (value: number | undefined): string => value?.toFixed(digits) ?? "";
  const ratio = berth / peer;
  return [
    name,
    unit,
    shown(berth),
    shown(p90?.[0]),
    shown(peer),
    shown(p90?.[1]),
    shown(plugins),
    ratio.toFixed(ratio < 0.1 ? 3 : 2),
    aim === undefined
      ? ""
      : `${aim.unit === undefined ? "≤" : "<"} ${aim.most}${aim.unit === undefined ? "" : ` ${aim.unit}`}`,
    aim === undefined ? "" : isMet(aim, berth, ratio) ? "yes" : "NO",
  ];
}

const isMet = ({ most, unit }: Aim, own: number, ratio: number): boolean =>
  unit === undefined ? ratio <= most : own < most;

type Times = Readonly<Record<string, readonly number[]>>;

/** Medians of a call's times. */
export function callFigure(name: string, berth: Times, peer: Times, aim?: Aim, plugins?: readonly number[]): Figure {
  const [ours, theirs] = [berth[name] ?? [], peer[name] ?? []];
  return {
    name,
    unit: "ms",
    berth: median(ours),
    peer: median(theirs),
    p90: [percentile(ours, 90), percentile(theirs, 90)],
    ...(plugins && { plugins: median(plugins) }),
    ...(aim && { aim }),
  };
}

export const sumFigure = (name: string, parts: readonly Figure[], aim: Aim): Figure => ({
  name,
  unit: "ms",
  berth: parts.reduce((sum, { berth }) => sum + berth, 0),
  peer: parts.reduce((sum, { peer }) => sum + peer, 0),
  aim,
});
