/** What is wrong with a specification, and where: file, line and column, device, field. */

/** From the document down, as in ["devices", 0, "name"]. */
export type FieldPath = readonly (string | number)[];

export interface Place {
  readonly file?: string | undefined;
  /** From 1. */
  readonly line?: number | undefined;
  readonly column?: number | undefined;
  /** A device's name; qualified where the kind is known. */
  readonly device?: string | undefined;
  readonly field?: string | undefined;
}

export class CdiError extends Error {
  override readonly name = "CdiError";
  readonly place: Place;
  /** What is wrong, without the place. */
  readonly what: string;

  constructor(place: Place, what: string, options?: ErrorOptions) {
    super([...partsOf(place), what].join(": "), options);
    this.place = place;
    this.what = what;
  }
}

/** Devices that were asked for and are not there, or not any more. */
export class UnresolvedError extends CdiError {
  readonly devices: readonly string[];
  constructor(devices: readonly string[], because: readonly string[]) {
    const reasons = because.length > 0 ? ` (${because.join("; ")})` : "";
    super({}, `unresolvable CDI devices ${devices.join(", ")}${reasons}`);
    this.devices = devices;
  }
}

export const placeText = (place: Place): string => partsOf(place).join(": ");

function partsOf({ file, line, column, device, field }: Place): string[] {
  const parts: string[] = [];
  if (file !== undefined) parts.push(line === undefined ? file : `${file}:${line}:${column ?? 1}`);
  else if (line !== undefined) parts.push(`line ${line}, column ${column ?? 1}`);
  if (device !== undefined) parts.push(`device ${JSON.stringify(device)}`);
  if (field !== undefined) parts.push(field);
  return parts;
}

/** ["devices", 0, "name"] → devices[0].name */
export function fieldName(path: FieldPath): string {
  return path.map((step, index) => (typeof step === "number" ? `[${step}]` : index === 0 ? step : `.${step}`)).join("");
}
