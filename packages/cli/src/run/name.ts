/** Names for containers that are given none. */
import { randomInt } from "node:crypto";
import { Failure } from "../failure.ts";

const FIRST = [
  "amber",
  "brisk",
  "calm",
  "clear",
  "deep",
  "early",
  "fair",
  "fresh",
  "gentle",
  "golden",
  "high",
  "keen",
  "late",
  "light",
  "quiet",
  "rapid",
  "silver",
  "steady",
  "swift",
  "warm",
];
const SECOND = [
  "anchor",
  "bow",
  "buoy",
  "cable",
  "cove",
  "deck",
  "fender",
  "harbour",
  "helm",
  "hull",
  "jetty",
  "keel",
  "mast",
  "mooring",
  "pier",
  "quay",
  "rudder",
  "sail",
  "tide",
  "wharf",
];
/** Together with the words: 40 million names, so that two at once do not collide. */
const NUMBERS = 100_000;

export function randomName(): string {
  const word = (list: readonly string[]): string => list[randomInt(list.length)] ?? "";
  return `${word(FIRST)}-${word(SECOND)}-${randomInt(NUMBERS)}`;
}

const NAME_MAX = 128;

/** What docker allows; besides, it becomes a directory's name. */
export function checkName(name: string): string {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(name) || name.length > NAME_MAX) {
    throw new Failure(
      `--name "${name}": use letters, digits, "_", "." and "-", beginning with a letter or digit, at most ${NAME_MAX}`,
    );
  }
  return name;
}
