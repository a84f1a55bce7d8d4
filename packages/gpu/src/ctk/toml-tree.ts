/** TOML documents of container engines, changed at a path and written as go-toml writes them. */
import { parse } from "smol-toml";

export type Tree = { [key: string]: unknown };

/** Throws Error naming the file. */
export function parseTree(text: string, file: string): Tree {
  try {
    return parse(text);
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`, { cause: error });
  }
}

export function at(tree: Tree, path: readonly string[]): unknown {
  return path.reduce<unknown>((now, key) => (isTree(now) ? now[key] : undefined), tree);
}

export function treeAt(tree: Tree, path: readonly string[]): Tree | undefined {
  const found = at(tree, path);
  return isTree(found) ? found : undefined;
}

/** A copy with `value` at the path. Throws Error where something on the way is no table. */
export function withAt(tree: Tree, path: readonly string[], value: unknown): Tree {
  const [key, ...rest] = path;
  if (key === undefined) return tree;
  if (rest.length === 0) return { ...tree, [key]: value };
  const inner = tree[key] ?? {};
  if (!isTree(inner)) throw new Error(`${path.join(".")}: ${key} is no table`);
  return { ...tree, [key]: withAt(inner, rest, value) };
}

export function withoutAt(tree: Tree, path: readonly string[]): Tree {
  const [key, ...rest] = path;
  const inner = key === undefined ? undefined : tree[key];
  if (key === undefined || inner === undefined) return tree;
  if (rest.length > 0) return isTree(inner) ? { ...tree, [key]: withoutAt(inner, rest) } : tree;
  return Object.fromEntries(Object.entries(tree).filter(([name]) => name !== key));
}

/** Values first, then tables, each by name. Nothing for a tree with nothing in it. */
export function formatTree(tree: Tree): string {
  return tableText(tree, [], "");
}

function tableText(tree: Tree, path: readonly string[], indent: string): string {
  const entries = Object.entries(tree).sort(([a], [b]) => (a < b ? -1 : 1));
  const values = entries.filter(([, value]) => !isTable(value));
  const lines = values.map(([key, value]) => `${indent}${keyText(key)} = ${literal(value)}\n`).join("");
  const inner = path.length === 0 ? "" : indent;
  const tables = entries.flatMap(([key, value]) => {
    const name = [...path, key];
    const title = name.map(keyText).join(".");
    const under = path.length === 0 ? "" : inner;
    if (isTree(value)) return [`\n${under}[${title}]\n${tableText(value, name, `${under}  `)}`];
    if (!isTable(value)) return [];
    return (value as Tree[]).map((one) => `\n${under}[[${title}]]\n${tableText(one, name, `${under}  `)}`);
  });
  return lines + tables.join("");
}

function isTree(value: unknown): value is Tree {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function isTable(value: unknown): boolean {
  return isTree(value) || (Array.isArray(value) && value.length > 0 && value.every(isTree));
}

const keyText = (key: string): string => (/^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key));

function literal(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (value instanceof Date) return value.toISOString();
  if (isTree(value)) {
    const inside = Object.entries(value).map(([key, one]) => `${keyText(key)} = ${literal(one)}`);
    return `{ ${inside.join(", ")} }`;
  }
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
