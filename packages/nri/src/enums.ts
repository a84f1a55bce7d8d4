/** Values of NRI as the OCI has them: enumerations by name, 64-bit numbers as JSON can hold them. */
import type { DescEnum } from "@bufbuild/protobuf";
import type { GenEnum } from "@bufbuild/protobuf/codegenv2";

/** 0 for a name that NRI does not have. */
export const numberOf = <E extends number>(desc: GenEnum<E>, name: string): E =>
  (desc.values.find((value) => value.name === name)?.number ?? 0) as E;

/** Throws for a number without a name. */
export function nameOf(desc: DescEnum, number: number): string {
  const name = desc.value[number]?.name;
  if (name === undefined) throw new Error(`${desc.name} ${number} is not known`);
  return name;
}

/** A bigint only where a number would not be exact. */
export const exact = (value: bigint): number | bigint =>
  value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
