/** kernel_verity_params: "root_hash=…,salt=…,data_blocks=…,data_block_size=…,hash_block_size=…", as Kata's image builder writes it. */
import { VmError } from "../errors.ts";
import type { RootVerity } from "./machine.ts";

const SECTOR = 512;
const HEX = /^([0-9a-fA-F]{2})+$/;

/** Undefined: nothing is to be verified. Throws VmError InvalidConfiguration naming the parameter. */
export function parseVerity(text: string): RootVerity | undefined {
  if (text.trim() === "") return undefined;
  const values = new Map<string, string>();
  for (const field of text.split(",").map((each) => each.trim())) {
    if (field === "") continue;
    const [, name, value] = /^([^=]+)=(.*)$/.exec(field) ?? [];
    if (name === undefined || value === undefined) throw wrong(`"${field}" is not NAME=VALUE`);
    values.set(name, value);
  }
  const hex = (name: string): string => {
    const value = values.get(name) ?? "";
    if (!HEX.test(value)) throw wrong(`${name}: "${value}" is no hexadecimal number`);
    return value;
  };
  const number = (name: string, unit: number): number => {
    const value = values.get(name) ?? "";
    if (!/^\d+$/.test(value) || Number(value) === 0 || Number(value) % unit !== 0)
      throw wrong(`${name}: "${value}" is no multiple of ${unit}`);
    return Number(value);
  };
  return {
    rootHash: hex("root_hash"),
    salt: hex("salt"),
    dataBlocks: number("data_blocks", 1),
    dataBlockSize: number("data_block_size", SECTOR),
    hashBlockSize: number("hash_block_size", SECTOR),
  };
}

const wrong = (words: string): VmError => new VmError("InvalidConfiguration", `kernel_verity_params: ${words}`);

/** As Kata has it (dm-init.rst). `partition`: the name of a partition of the image, without its number. */
export function verityParameter(verity: RootVerity, partition: string): string {
  const { rootHash, salt, dataBlocks, dataBlockSize, hashBlockSize } = verity;
  const sectors = dataBlocks * (dataBlockSize / SECTOR);
  const target = `verity 1 ${partition}1 ${partition}2 ${dataBlockSize} ${hashBlockSize} ${dataBlocks} 0 sha256`;
  return `dm-mod.create="dm-verity,,,ro,0 ${sectors} ${target} ${rootHash} ${salt}"`;
}
