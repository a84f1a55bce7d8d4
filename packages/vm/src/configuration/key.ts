/** How a key of configuration.toml is described in the tables beside this file. */

export interface KeyTypes {
  readonly string: string;
  readonly integer: number;
  readonly number: number;
  readonly boolean: boolean;
  readonly strings: readonly string[];
  readonly list: readonly unknown[];
}
export type KeyType = keyof KeyTypes;

/**
 * honoured: it changes what is made. refused: a value other than its default is an error that says why. moot: there is nothing here
 * that it could be about; it is taken, and berth-vm env shows it.
 */
export type KeyUse = "honoured" | "refused" | "moot";

export interface Key<T extends KeyType = KeyType> {
  readonly type: T;
  readonly fallback: KeyTypes[T];
  readonly use: KeyUse;
  /** What it changes; why it is refused; why it is about nothing. */
  readonly note: string;
}

export type Values<K> = { readonly [Name in keyof K]: K[Name] extends Key<infer T> ? KeyTypes[T] : never };

const of =
  (use: KeyUse) =>
  <T extends KeyType>(type: T, fallback: KeyTypes[T], note: string): Key<T> => ({ type, fallback, use, note });

export const honoured = of("honoured");
export const refused = of("refused");
export const moot = of("moot");
