/**
 * The system's libseccomp, called through koffi. Used only in the worker (worker.ts): loading and compiling take
 * milliseconds. Functions as in seccomp.h of libseccomp 2.5; negative results are errno values.
 */
import { closeSync, openSync, readFileSync, rmSync } from "node:fs";
import koffi, { type KoffiFunc } from "koffi";
import { SeccompError } from "./constants.ts";

const LIBRARY = "libseccomp.so.2";
const EEXIST = 17;
const UNKNOWN_CALL = -1;

export interface Comparison {
  readonly arg: number;
  readonly op: number;
  readonly datum_a: bigint;
  readonly datum_b: bigint;
}

export interface Version {
  readonly library: string;
  /** What the kernel offers, as the library sees it (seccomp_api_get(3)). */
  readonly api: number;
}

export class Library {
  readonly version: Version;
  readonly #call: Functions;

  constructor() {
    this.#call = load();
    const { major, minor, micro } = koffi.decode(this.#call.version(), "scmp_version") as {
      major: number;
      minor: number;
      micro: number;
    };
    this.version = { library: `${major}.${minor}.${micro}`, api: this.#call.api() };
  }

  /** libseccomp's token of "SCMP_ARCH_X86_64"; undefined for one that this version does not know. */
  architecture(name: string): number | undefined {
    const token = this.#call.archByName(name.replace(/^SCMP_ARCH_/, "").toLowerCase());
    return token === 0 ? undefined : token;
  }

  nativeArchitecture(): number {
    return this.#call.archNative();
  }

  /** The number to give to `rule`; undefined for a name that this version does not know. */
  systemCall(name: string): number | undefined {
    const number = this.#call.callByName(name);
    return number === UNKNOWN_CALL ? undefined : number;
  }

  /** The kernel's number on an architecture; undefined where it has no such call. */
  systemCallOn(architecture: number, name: string): number | undefined {
    const number = this.#call.callByNameOn(architecture, name);
    return number < 0 ? undefined : number;
  }

  filter(defaultAction: number): Filter {
    const context = this.#call.init(defaultAction);
    if (context === null) throw new Error(`libseccomp refuses the default action 0x${defaultAction.toString(16)}`);
    return new Filter(this.#call, context);
  }
}

export class Filter implements Disposable {
  readonly #call: Functions;
  readonly #context: Pointer;

  constructor(call: Functions, context: Pointer) {
    this.#call = call;
    this.#context = context;
  }

  addArchitecture(token: number): void {
    const result = this.#call.archAdd(this.#context, token);
    if (result < 0 && result !== -EEXIST) throw new SeccompError("architectures", `libseccomp: errno ${-result}`);
  }

  rule(action: number, call: number, comparisons: readonly Comparison[], field: string): void {
    check(this.#call.ruleAdd(this.#context, action, call, comparisons.length, comparisons), field);
  }

  /** An array of struct sock_filter; `scratch` is the path of a file that may be made and is removed. */
  export(scratch: string): Buffer {
    const fd = openSync(scratch, "wx", 0o600);
    try {
      check(this.#call.exportBpf(this.#context, fd), "syscalls");
      return readFileSync(scratch);
    } finally {
      closeSync(fd);
      rmSync(scratch);
    }
  }

  [Symbol.dispose](): void {
    this.#call.release(this.#context);
  }
}

function check(result: number, field: string): void {
  if (result < 0) throw new SeccompError(field, `libseccomp refuses it: errno ${-result}`);
}

type Pointer = bigint;

interface Functions {
  readonly version: KoffiFunc<() => Pointer>;
  readonly api: KoffiFunc<() => number>;
  readonly archByName: KoffiFunc<(name: string) => number>;
  readonly archNative: KoffiFunc<() => number>;
  readonly archAdd: KoffiFunc<(context: Pointer, token: number) => number>;
  readonly callByName: KoffiFunc<(name: string) => number>;
  readonly callByNameOn: KoffiFunc<(token: number, name: string) => number>;
  readonly init: KoffiFunc<(action: number) => Pointer | null>;
  readonly release: KoffiFunc<(context: Pointer) => void>;
  readonly ruleAdd: KoffiFunc<
    (context: Pointer, action: number, call: number, count: number, comparisons: readonly Comparison[]) => number
  >;
  readonly exportBpf: KoffiFunc<(context: Pointer, fd: number) => number>;
}

function load(): Functions {
  let library: ReturnType<typeof koffi.load>;
  try {
    library = koffi.load(LIBRARY);
  } catch (error) {
    throw new Error(
      `${LIBRARY} cannot be loaded; install it (Debian and Ubuntu: apt install libseccomp2): ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
  koffi.struct("scmp_version", { major: "uint", minor: "uint", micro: "uint" });
  koffi.struct("scmp_arg_cmp", { arg: "uint", op: "int", datum_a: "uint64", datum_b: "uint64" });
  return {
    version: library.func("const scmp_version *seccomp_version()"),
    api: library.func("uint seccomp_api_get()"),
    archByName: library.func("uint32 seccomp_arch_resolve_name(const char *name)"),
    archNative: library.func("uint32 seccomp_arch_native()"),
    archAdd: library.func("int seccomp_arch_add(void *ctx, uint32 token)"),
    callByName: library.func("int seccomp_syscall_resolve_name(const char *name)"),
    callByNameOn: library.func("int seccomp_syscall_resolve_name_arch(uint32 token, const char *name)"),
    init: library.func("void *seccomp_init(uint32 action)"),
    release: library.func("void seccomp_release(void *ctx)"),
    ruleAdd: library.func(
      "int seccomp_rule_add_array(void *ctx, uint32 action, int syscall, uint count, const scmp_arg_cmp *comparisons)",
    ),
    exportBpf: library.func("int seccomp_export_bpf(void *ctx, int fd)"),
  };
}
