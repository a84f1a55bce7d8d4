/** What a description of an API says of a value: its type, its fields, which of them must be there. */
export type Shape =
  | { readonly is: "text"; readonly among?: readonly string[] }
  | { readonly is: "integer"; readonly from?: number; readonly to?: number }
  | { readonly is: "boolean" }
  | { readonly is: "list"; readonly of: Shape }
  | { readonly is: "object"; readonly required: Fields; readonly optional: Fields };
type Fields = Readonly<Record<string, Shape>>;

export const text: Shape = { is: "text" };
export const oneOf = (...among: readonly string[]): Shape => ({ is: "text", among });
export const integer: Shape = { is: "integer" };
export const from = (least: number, most?: number): Shape => ({
  is: "integer",
  from: least,
  ...(most !== undefined && { to: most }),
});
export const boolean: Shape = { is: "boolean" };
export const list = (of: Shape): Shape => ({ is: "list", of });
export const object = (required: Fields, optional: Fields = {}): Shape => ({ is: "object", required, optional });

/** Why the value is not of the shape; undefined: it is. A field that the description does not know is none. */
export function problemOf(value: unknown, shape: Shape, at = "body"): string | undefined {
  switch (shape.is) {
    case "text":
      if (typeof value !== "string") return `${at}: invalid type, expected a string`;
      return shape.among && !shape.among.includes(value) ? `${at}: unknown variant \`${value}\`` : undefined;
    case "integer":
      if (!Number.isInteger(value)) return `${at}: invalid type, expected an integer`;
      return Number(value) < (shape.from ?? 0) || Number(value) > (shape.to ?? Infinity)
        ? `${at}: ${String(value)} is out of range`
        : undefined;
    case "boolean":
      return typeof value === "boolean" ? undefined : `${at}: invalid type, expected a boolean`;
    case "list":
      if (!Array.isArray(value)) return `${at}: invalid type, expected a sequence`;
      return first(value.map((each, index) => problemOf(each, shape.of, `${at}[${index}]`)));
    case "object":
      return problemOfObject(value, shape, at);
  }
}

function problemOfObject(value: unknown, shape: Shape & { is: "object" }, at: string): string | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return `${at}: invalid type, expected a map`;
  const own = value as Record<string, unknown>;
  const missing = Object.keys(shape.required).find((name) => own[name] === undefined);
  if (missing !== undefined) return `${at}: missing field \`${missing}\``;
  const fields: Fields = { ...shape.required, ...shape.optional };
  return first(
    Object.entries(own).map(([name, each]) => {
      const field = fields[name];
      return field ? problemOf(each, field, `${at}.${name}`) : `${at}: unknown field \`${name}\``;
    }),
  );
}

const first = (problems: readonly (string | undefined)[]): string | undefined =>
  problems.find((problem) => problem !== undefined);
