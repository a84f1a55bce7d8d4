/** Runs a seccomp filter as the kernel would: the classic BPF of struct sock_filter over struct seccomp_data. */

export interface Call {
  /** AUDIT_ARCH_*. */
  readonly arch: number;
  readonly nr: number;
  readonly args?: readonly bigint[];
}

/** The filter's verdict: SECCOMP_RET_*. */
export function runFilter(filter: Uint8Array, { arch, nr, args = [] }: Call): number {
  const program = Buffer.from(filter);
  const data = Buffer.alloc(64);
  data.writeUInt32LE(nr >>> 0, 0);
  data.writeUInt32LE(arch >>> 0, 4);
  args.forEach((value, index) => data.writeBigUInt64LE(BigInt.asUintN(64, value), 16 + index * 8));
  let a = 0;
  for (let at = 0; ; at++) {
    const code = program.readUInt16LE(at * 8);
    const [jt, jf] = [program.readUInt8(at * 8 + 2), program.readUInt8(at * 8 + 3)];
    const k = program.readUInt32LE(at * 8 + 4);
    switch (code) {
      case 0x20: // ld abs
        a = data.readUInt32LE(k);
        break;
      case 0x05: // ja
        at += k;
        break;
      case 0x15:
        at += a === k ? jt : jf;
        break;
      case 0x25:
        at += a > k ? jt : jf;
        break;
      case 0x35:
        at += a >= k ? jt : jf;
        break;
      case 0x45:
        at += (a & k) !== 0 ? jt : jf;
        break;
      case 0x54: // and
        a = (a & k) >>> 0;
        break;
      case 0x06:
        return k;
      default:
        throw new Error(`instruction ${at} has code 0x${code.toString(16)}`);
    }
  }
}
