/** What bosun reports, as typed errors. Each carries what a caller needs to decide; the gRPC edge maps them. */

/** An order of a plan failed. `message`: "mount /proc (mounts[0]): EPERM (operation not permitted): <detail>". */
export class OrderError extends Error {
  override readonly name = "OrderError";
  /** As in node:fs errors: "ENOENT", "ETIMEDOUT", "ECANCELED" … */
  readonly code: string;
  readonly errno: number;
  /** Index in the plan, or undefined where no order is to blame. */
  readonly order: number | undefined;
  readonly orderName: string | undefined;
  readonly because: string | undefined;
  /** Before `clone` ("stage"), or after it ("container"). */
  readonly where: "stage" | "container";
  /** Which step failed and on what, as bosun says it. */
  readonly detail: string;

  constructor(message: string, fields: Omit<OrderError, "name" | "message" | "stack" | "cause">) {
    super(message);
    this.code = fields.code;
    this.errno = fields.errno;
    this.order = fields.order;
    this.orderName = fields.orderName;
    this.because = fields.because;
    this.where = fields.where;
    this.detail = fields.detail;
  }
}

/** `bosun serve` ended or never came up: every pending call fails with it; the hand starts a new one for the next call. */
export class HandLost extends Error {
  override readonly name = "HandLost";
}

/** The monitor's connection ended without an exit. */
export class MonitorLost extends Error {
  override readonly name = "MonitorLost";
}
