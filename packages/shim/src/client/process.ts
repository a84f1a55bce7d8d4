/** A process of a shim's as the process of one of bosun's monitors: streams by FIFOs, signals, sizes and the end by the Task API. */
import { NO_SLOT, O, type Order, type Plan } from "@berth/kernel";
import { type task, ttrpc } from "@berth/spec/shim";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { encodeFrame, TYPE } from "@berth/ttrpc";
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

/** A varint of 32 bits in the five bytes that its longest takes: bosun puts the number there. */
const PLACE = Buffer.from([0x80, 0x80, 0x80, 0x80, 0x00]);
/** Keys of varint fields 3 (KillRequest.signal, ResizePtyRequest.width) and 4 (height). */
const [FIELD_3, FIELD_4] = [Buffer.from([3 << 3]), Buffer.from([4 << 3])];

function framesOf({ shim, namespace, id, execId }: ShimProcess) {
  const { typeName, method } = serviceOf(shim.version);
  const frame = (
    { name, input }: { readonly name: string; readonly input: DescMessage },
    fields: object,
    ...places: Buffer[]
  ) => {
    const message = create(input, { id, execId, ...fields });
    return requestFrame(typeName, name, namespace, Buffer.concat([toBinary(input, message), ...places]));
  };
  return {
    start: frame(method.start, {}),
    wait: frame(method.wait, {}),
    kill: frame(method.kill, {}, FIELD_3, PLACE),
    closeInput: frame(method.closeIO, { stdin: true } satisfies MessageInitShape<typeof task.CloseIORequestSchema>),
    resize: frame(method.resizePty, {}, FIELD_3, PLACE, FIELD_4, PLACE),
  };
}

/** With the payload last, so that its end is the frame's. */
function requestFrame(service: string, method: string, namespace: string, payload: Buffer): Buffer {
  const metadata = Object.entries(namespaceMetadata(namespace)).map(([key, [value = ""]]) => ({ key, value }));
  const head = toBinary(ttrpc.RequestSchema, create(ttrpc.RequestSchema, { service, method, metadata }));
  // protobuf takes fields in any order, and of one that is no list the last that comes.
  const tail = toBinary(ttrpc.RequestSchema, create(ttrpc.RequestSchema, { payload }));
  return encodeFrame({ stream: 0, type: TYPE.request, flags: 0, data: Buffer.concat([head, tail]) });
}
