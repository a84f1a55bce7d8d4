/** A process of a shim's as the process of one of bosun's monitors: streams by FIFOs, signals, sizes and the end by the Task API. */
import { NO_SLOT, O, type Order, type Plan } from "@berth/kernel";
import { numberPlace, requestFrame } from "@berth/ttrpc";
import type { Bootstrap } from "./launch.ts";
import { namespaceMetadata, serviceOf } from "./task.ts";

/** Paths of FIFOs; undefined: the process has no such stream. */
export interface Fifos {
  readonly stdin?: string | undefined;
  readonly stdout?: string | undefined;
  readonly stderr?: string | undefined;
}

export interface ShimProcess {
  readonly shim: Bootstrap;
  readonly namespace: string;
  readonly id: string;
  /** "": the container's own. */
  readonly execId: string;
  readonly terminal: boolean;
  readonly fifos: Fifos;
  /** Waits to be started after it has opened its ends of the FIFOs. */
  readonly parks: boolean;
}

/** Names of the FIFOs of one process, in a directory of its caller's. With a terminal there is no stderr. */
export const fifosIn = (directory: string, name: string, terminal: boolean, stdin: boolean): Fifos => ({
  stdin: stdin ? `${directory}/${name}-stdin` : undefined,
  stdout: `${directory}/${name}-stdout`,
  stderr: terminal ? undefined : `${directory}/${name}-stderr`,
});

const SLOTS = { stdin: 0, stdout: 1, stderr: 2, root: 3 } as const;
const STREAMS = ["stdin", "stdout", "stderr"] as const;
const FIRST_SIZE = { rows: 24, columns: 80 };

/** The FIFOs are made and opened, the shim is to be told of them before the process is started: by Create or Exec. */
export function planShimProcess(process: ShimProcess): Plan {
  const { shim, fifos, terminal, parks } = process;
  const slot = (name: (typeof STREAMS)[number]): number => (fifos[name] === undefined ? NO_SLOT : SLOTS[name]);
  const orders: Order[] = STREAMS.flatMap((name) => fifoOrders(fifos[name], SLOTS[name], name === "stdin"));
  if (terminal)
    orders.push({ order: "open", args: { slot: SLOTS.root, path: "/", flags: BigInt(O.PATH | O.DIRECTORY) } });
  orders.push({ order: "clone", args: { flags: 0n, cgroupSlot: NO_SLOT, uidMap: "", gidMap: "", denySetgroups: 0 } });
  if (terminal) {
    orders.push({ order: "setsid", args: {} });
    orders.push({ order: "console", args: { root: SLOTS.root, ...FIRST_SIZE, bindConsole: 0 } });
    orders.push({ order: "close", args: { slot: SLOTS.root } });
  }
  if (parks) orders.push({ order: "park", args: {}, because: "StartContainer" });
  orders.push({
    order: "shim_process",
    args: {
      socket: shim.address,
      ...framesOf(process),
      stdinSlot: slot("stdin"),
      stdoutSlot: slot("stdout"),
      stderrSlot: slot("stderr"),
      terminal: terminal ? 1 : 0,
    },
    because: "the runtime handler's shim",
  });
  return { orders };
}

/** Opened before the shim opens its own ends, so that neither waits for the other. The input for both, so that it is never without a reader. */
function fifoOrders(path: string | undefined, slot: number, input: boolean): Order[] {
  if (path === undefined) return [];
  const flags = BigInt((input ? O.RDWR : O.RDONLY) | O.NONBLOCK);
  return [
    { order: "make_fifo", args: { path, mode: 0o600, uid: 0, gid: 0 } },
    { order: "open", args: { slot, path, flags } },
  ];
}

/** KillRequest.signal, ResizePtyRequest.width and height. */
const [SIGNAL, WIDTH, HEIGHT] = [3, 3, 4] as const;

function framesOf({ shim, namespace, id, execId }: ShimProcess) {
  const { method } = serviceOf(shim.version);
  const metadata = namespaceMetadata(namespace);
  const process = { id, execId };
  return {
    start: requestFrame(method.start, process, [], metadata),
    wait: requestFrame(method.wait, process, [], metadata),
    kill: requestFrame(method.kill, process, [numberPlace(SIGNAL)], metadata),
    closeInput: requestFrame(method.closeIO, { ...process, stdin: true }, [], metadata),
    resize: requestFrame(method.resizePty, process, [numberPlace(WIDTH), numberPlace(HEIGHT)], metadata),
  };
}
