/** What every command gets: the process around it, and berthd. */
import { chosenAddress } from "./address.ts";
import type { Client } from "./client.ts";
import type { Shell } from "./shell.ts";

export class Session implements Disposable {
  readonly shell: Shell;
  /** What the process ends with if nothing fails. */
  exitCode = 0;
  #address: string | undefined;
  #client: Client | undefined;

  constructor(shell: Shell) {
    this.shell = shell;
  }

  /** --address of the command line. */
  setAddress(option: string | undefined): void {
    this.#address = option;
  }

  get address(): string {
    return chosenAddress(this.#address, this.shell.env);
  }

  /** gRPC is loaded with the first use: half of what a command takes to start. */
  async connect(): Promise<Client> {
    if (!this.#client) {
      const { connect } = await import("./client.ts");
      this.#client = connect(this.address);
    }
    return this.#client;
  }

  [Symbol.dispose](): void {
    this.#client?.close();
  }
}
