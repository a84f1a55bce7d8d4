/** bosun's answers as results and errors. */
import { adviceFor } from "./advice.ts";
import { constants as osConstants } from "node:os";
import type { AnyMessage, Message } from "../orders/encode.ts";
import { NO_ORDER, type MessageName } from "../orders/messages.ts";
import type { Plan } from "../orders/plan.ts";
import { orderWords } from "../orders/words.ts";
import { OrderError } from "./errors.ts";

const ERRNO_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(osConstants.errno)
    .filter(([name]) => name !== "EWOULDBLOCK" && name !== "EOPNOTSUPP")
    .map(([name, number]) => [number, name]),
);
/** What node:os does not list. */
const MORE_ERRNOS: ReadonlyMap<number, string> = new Map([
  [40, "ELOOP"],
  [95, "EOPNOTSUPP"],
  [116, "ESTALE"],
  [122, "EDQUOT"],
  [15, "ENOTBLK"],
  [117, "EUCLEAN"],
]);

export function errnoName(errno: number): string {
  return ERRNO_NAMES.get(errno) ?? MORE_ERRNOS.get(errno) ?? `errno ${errno}`;
}

/** bosun's are shorter; a machine's bosun may have become somebody else's, and this goes into headers and logs. */
const LONGEST_DETAIL = 8192;

/** A failure report as an error: "clone mount tree /data (mounts[3]): ENOENT: open_tree /data". */
export function reportError(report: Message<"report">, what: string, plan?: Plan): OrderError {
  const code = errnoName(report.errno);
  const order = report.order === NO_ORDER ? undefined : plan?.orders[report.order];
  const because = order?.because === undefined ? "" : ` (${order.because})`;
  const subject = order === undefined ? what : `${orderWords(order)}${because}`;
  const said = report.detail.slice(0, LONGEST_DETAIL);
  const detail = said === "" ? "" : `: ${said}`;
  const where = order !== undefined && report.stage !== 0 ? " (in the container's namespaces)" : "";
  const advice = order === undefined ? undefined : adviceFor(order, code);
  return new OrderError(`${subject}: ${code}${detail}${where}${advice === undefined ? "" : `; ${advice}`}`, {
    code,
    errno: report.errno,
    order: report.order === NO_ORDER ? undefined : report.order,
    orderName: order?.order,
    because: order?.because,
    where: report.stage === 0 ? "stage" : "container",
    detail: said,
  });
}

/**
 * The failure of an order `guest_process` or `guest_exec` that was one of the machine's own plan, in that plan's words; any other error
 * as it is.
 */
export function guestError(error: unknown, plan: Plan): unknown {
  if (!(error instanceof OrderError) || (error.orderName !== "guest_process" && error.orderName !== "guest_exec"))
    return error;
  const [, index, detail = ""] = /^order (\d+) of the guest's plan: (.*)$/s.exec(error.detail) ?? [];
  if (index === undefined) return error;
  const order = Number(index);
  const cloned = plan.orders.findIndex((each) => each.order === "clone");
  const stage = cloned >= 0 && order > cloned ? 1 : 0;
  return reportError({ errno: error.errno, order, stage, detail, outputs: new Uint8Array() }, "guest", plan);
}

/** The answer if it is the expected message; throws OrderError for a failure report, Error for anything else. */
export function expect<N extends MessageName>(answer: AnyMessage, name: N, what: string, plan?: Plan): Message<N> {
  if (answer.name === "report" && answer.fields.errno !== 0) throw reportError(answer.fields, what, plan);
  if (answer.name !== name) throw new Error(`${what}: bosun answered ${answer.name} where ${name} was expected`);
  return answer.fields as unknown as Message<N>;
}
