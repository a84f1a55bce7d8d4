/** What goes wrong with virtual machines, as codes that the CRI's edge can tell apart. */
export type VmErrorCode =
  /** The configuration asks for what is not known, or cannot be. */
  | "InvalidConfiguration"
  /** A caller's words are none that this takes. */
  | "InvalidArgument"
  /** The pod's policy does not allow it. */
  | "Denied"
  /** A kernel, an image or a program that is needed is not here. */
  | "Missing"
  /** What this hypervisor, or this guest, cannot do. */
  | "Unsupported"
  /** The hypervisor refused, or ended. */
  | "Hypervisor"
  /** The guest did not come up, or does not answer. */
  | "Guest";

export class VmError extends Error {
  override readonly name = "VmError";
  readonly code: VmErrorCode;
  constructor(code: VmErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
