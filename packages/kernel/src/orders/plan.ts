/** Plans: typed lists of orders (table.ts) with, for people, the config field that asked for each. */
import type { FieldType, ORDERS, OrderName } from "./table.ts";

export type Bytes = Uint8Array;

type FieldValue<T extends FieldType> = T extends "u32"
  ? number
  : T extends "u64" | "i64"
    ? bigint
    : T extends "str"
      ? string | Bytes
      : T extends "bytes"
        ? Bytes
        : T extends "strs"
          ? readonly (string | Bytes)[]
          : T extends "blobs"
            ? readonly Bytes[]
            : readonly number[];

export type OrderArguments<N extends OrderName> = {
  readonly [K in keyof (typeof ORDERS)[N]["fields"]]: FieldValue<Extract<(typeof ORDERS)[N]["fields"][K], FieldType>>;
};

export type Order = {
  [N in OrderName]: {
    readonly order: N;
    readonly args: OrderArguments<N>;
    /** What asked for it, as in "mounts[3]" or "process.capabilities.bounding"; shown by `berth plan` and in errors. */
    readonly because?: string | undefined;
  };
}[OrderName];

export interface Plan {
  readonly orders: readonly Order[];
}
