/** A process of the agent's as one of the host's: bosun's order agent_process stands for it, with requests that are encoded here. */
import type { Order } from "@berth/kernel";
import { agent } from "@berth/spec/kata";
import { numberPlace, openFrame, requestFrame } from "@berth/ttrpc";
import type { AgentAddress } from "./connect.ts";

export interface AgentProcess {
  readonly containerId: string;
  /** "": the container's own. */
  readonly execId: string;
  /** What starts it: StartContainer, or ExecProcess. */
  readonly start: Buffer;
  readonly terminal: boolean;
  readonly stdin: boolean;
}

/** Bytes that one answer brings: bosun takes no more (order_agent.c). */
const READ_BYTES = 32_768;
const { number: DATA } = agent.WriteStreamRequestSchema.field.data;
const { number: SIGNAL } = agent.SignalProcessRequestSchema.field.signal;
const { row: ROW, column: COLUMN } = agent.TtyWinResizeRequestSchema.field;

/** Ends the plan of its stand-in. */
export function agentProcessOrder(address: AgentAddress, process: AgentProcess): Order {
  const { containerId, execId, start, terminal, stdin } = process;
  const { method } = agent.AgentService;
  const own = { containerId, execId };
  const write = openFrame(method.writeStdin, own, DATA);
  return {
    order: "agent_process",
    args: {
      socket: address.socket,
      port: address.port ?? 0,
      path: address.path ?? "",
      start,
      wait: requestFrame(method.waitProcess, own),
      stdout: requestFrame(method.readStdout, { ...own, len: READ_BYTES }),
      stderr: requestFrame(method.readStderr, { ...own, len: READ_BYTES }),
      write: write.frame,
      payload: write.payload,
      closeInput: requestFrame(method.closeStdin, own),
      kill: requestFrame(method.signalProcess, own, [numberPlace(SIGNAL)]),
      resize: requestFrame(method.ttyWinResize, own, [numberPlace(ROW.number), numberPlace(COLUMN.number)]),
      stdin: stdin ? 1 : 0,
      terminal: terminal ? 1 : 0,
    },
  };
}
