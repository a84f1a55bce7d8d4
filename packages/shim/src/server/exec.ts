/** A further process of a container: prepared by Exec, made by Start. */
import type { MonitorLink } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { task } from "@berth/spec/shim";
import { CODE, TtrpcError } from "@berth/ttrpc";
import type { PreparedExec } from "./making.ts";
import { TaskProcess } from "./process.ts";
import { Streams } from "./streams.ts";

interface Owner {
  execPlan(process: oci.Process): Promise<PreparedExec & { readonly link: MonitorLink }>;
}

const NS_IN_MS = 1_000_000n;
/** Its monitor has gone, and the container with it. */
const LOST_CODE = 137;

export class ExecProcess extends TaskProcess {
  readonly id: string;
  readonly #container: Owner;
  readonly #process: oci.Process;
  protected link: MonitorLink | undefined;
  protected session: number | undefined;
  #isStarted = false;
  #dispose: PreparedExec["dispose"];

  constructor(container: Owner, request: task.ExecProcessRequest, process: oci.Process) {
    super(request.terminal, request);
    this.id = request.execId;
    this.#container = container;
    this.#process = process;
  }

  protected override get reached(): number | undefined {
    return this.session;
  }

  async start(): Promise<void> {
    if (this.#isStarted) throw new TtrpcError(CODE.failedPrecondition, `process ${this.id} is started already`);
    this.#isStarted = true;
    const { plan, link, told, dispose } = await this.#container.execPlan({ ...this.#process, terminal: this.terminal });
    this.link = link;
    this.#dispose = dispose;
    const terminal = this.terminal ? { rows: 24, columns: 80 } : undefined;
    const made = link.exec({ plan, terminal, streams: Streams.bits(this.paths) });
    const { session, pid } = await (told?.(made) ?? made);
    this.session = session;
    this.pid = pid;
    const exited = link.wait(session);
    await this.streams.connect(link, session, this.paths, this.terminal);
    exited.then(
      async ({ code }) => {
        await this.streams.drained();
        this.hasEnded({ code, at: BigInt(Date.now()) * NS_IN_MS });
      },
      () => this.hasEnded({ code: LOST_CODE, at: BigInt(Date.now()) * NS_IN_MS }),
    );
  }

  /** It has ended, or was never started. */
  async release(): Promise<void> {
    await this.#dispose?.();
  }
}
