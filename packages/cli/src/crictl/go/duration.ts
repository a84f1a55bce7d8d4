/** Go's time.Duration, in milliseconds. */

/** As Duration.String() for whole milliseconds. */
export function formatDuration(ms: number): string {
  if (ms === 0) return "0s";
  if (Math.abs(ms) < 1000) return `${ms}ms`;
  const [hours, minutes] = [Math.trunc(ms / 3_600_000), Math.trunc((ms % 3_600_000) / 60_000)];
  const seconds = `${(ms % 60_000) / 1000}s`;
  return hours !== 0 ? `${hours}h${Math.abs(minutes)}m${seconds}` : minutes !== 0 ? `${minutes}m${seconds}` : seconds;
}
