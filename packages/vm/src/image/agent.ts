/** Another agent than berth's own for a guest image: a program that stands alone. */
import { readFile } from "node:fs/promises";
import { VmError } from "../errors.ts";

/** Of the program headers: ELF(5), PT_INTERP. */
const PT_INTERP = 3;
const ELF64 = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
const [PHOFF, PHENTSIZE, PHNUM] = [32, 54, 56] as const;

/** Throws VmError InvalidConfiguration where it would need libraries, which a guest has not. */
export async function readAgent(path: string): Promise<Buffer> {
  const program = await readFile(path);
  if (program.length < 64 || !program.subarray(0, ELF64.length).equals(ELF64))
    throw new VmError("InvalidConfiguration", `--agent: ${path} is no program for this machine`);
  const [offset, size, count] = [
    Number(program.readBigUInt64LE(PHOFF)),
    program.readUInt16LE(PHENTSIZE),
    program.readUInt16LE(PHNUM),
  ];
  for (let index = 0; index < count; index++) {
    const at = offset + index * size;
    if (at + 4 <= program.length && program.readUInt32LE(at) === PT_INTERP)
      throw new VmError(
        "InvalidConfiguration",
        `--agent: ${path} needs libraries, which the guest has not; build it statically linked (kata-agent: for a musl target)`,
      );
  }
  return program;
}
