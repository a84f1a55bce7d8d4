/** For tests: systemd's manager as far as berth speaks to it, on a socket of its own: what is asked of it is kept, what it answers is set. */
import { createServer, type Server, type Socket } from "node:net";
import { decodeMessage, encodeMessage, messageSize, type DBusMessage } from "./bus.ts";
import type { DBusValue, Variant } from "./marshal.ts";

const [REPLY, ERROR, SIGNAL] = [2, 3, 4];
const text = (signature: string, value: string): Variant => ({ signature, value });

export interface FakeAnswer {
  /** Of a job: how it ends. */
  readonly result?: string;
  readonly error?: string;
  /** The connection ends in its stead. */
  readonly lost?: true;
  /** The call is answered; the end of its job is not told. */
  readonly endless?: true;
  /** Of a unit: ActiveState. */
  readonly state?: string;
}

export class FakeSystemd implements AsyncDisposable {
  readonly calls: DBusMessage[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  version = "252.39-1~deb12u1";
  /** By member; what is not there is answered with success. */
  answers: Record<string, FakeAnswer[]> = {};
  #jobs = 0;
  #serial = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async listen(path: string): Promise<FakeSystemd> {
    const server = createServer();
    const fake = new FakeSystemd(server);
    server.on("connection", (socket) => fake.#serve(socket));
    await new Promise<void>((resolve, reject) => server.once("error", reject).listen(path, resolve));
    return fake;
  }

  /** systemd leaves the bus and is back, as when it re-executes itself. */
  restart(): void {
    for (const owners of [
      [":1.1", ""],
      ["", ":1.2"],
    ])
      for (const socket of this.#sockets)
        socket.write(
          encodeMessage(
            SIGNAL,
            ++this.#serial,
            [
              [1, text("o", "/org/freedesktop/DBus")],
              [2, text("s", "org.freedesktop.DBus")],
              [3, text("s", "NameOwnerChanged")],
              [8, text("g", "sss")],
            ],
            "sss",
            ["org.freedesktop.systemd1", ...owners],
          ),
        );
  }

  /** The bodies of the calls of one member. */
  bodies(member: string): readonly (readonly DBusValue[])[] {
    return this.calls.filter((call) => call.member === member).map(({ body }) => body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(socket: Socket): void {
    let data = Buffer.alloc(0);
    let isOpen = false;
    this.#sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.on("data", (chunk: Buffer) => {
      data = Buffer.concat([data, chunk]);
      for (let end = data.indexOf("\r\n"); !isOpen && end >= 0; end = data.indexOf("\r\n")) {
        const line = data.toString("latin1", 0, end).replace(/^\0/, "");
        data = data.subarray(end + 2);
        if (line === `AUTH EXTERNAL ${Buffer.from(String(process.getuid?.())).toString("hex")}`)
          socket.write("OK 0123456789abcdef\r\n");
        else if (line === "BEGIN") isOpen = true;
        else socket.write("REJECTED EXTERNAL\r\n");
      }
      for (let size = isOpen ? messageSize(data) : undefined; size !== undefined && size <= data.length;) {
        this.#answer(socket, decodeMessage(data.subarray(0, size)));
        data = data.subarray(size);
        size = messageSize(data);
      }
    });
  }

  #answer(socket: Socket, call: DBusMessage & { readonly serial: number }): void {
    this.calls.push(call);
    const member = call.member ?? "";
    const answer = this.answers[member]?.shift() ?? {};
    if (answer.lost) return void socket.destroy();
    const send = (type: number, fields: [number, Variant][], signature: string, body: DBusValue[]) =>
      socket.write(
        encodeMessage(
          type,
          ++this.#serial,
          signature === "" ? fields : [...fields, [8, text("g", signature)]],
          signature,
          body,
        ),
      );
    const replySerial: [number, Variant] = [5, { signature: "u", value: call.serial }];
    if (answer.error !== undefined)
      return void send(ERROR, [replySerial, [4, text("s", answer.error)]], "s", ["as it was told"]);
    if (member === "GetUnit") return void send(REPLY, [replySerial], "o", ["/org/freedesktop/systemd1/unit/x"]);
    if (member === "Get") {
      const value = call.body[1] === "ActiveState" ? (answer.state ?? "active") : this.version;
      return void send(REPLY, [replySerial], "v", [text("s", value)]);
    }
    if (member === "Hello") return void send(REPLY, [replySerial], "s", [":1.7"]);
    if (member !== "StartTransientUnit" && member !== "StopUnit") return void send(REPLY, [replySerial], "", []);
    const unit = typeof call.body[0] === "string" ? call.body[0] : "";
    const job = `/org/freedesktop/systemd1/job/${++this.#jobs}`;
    // The end of a job may well come before the reply that names it.
    const removed = () =>
      send(
        SIGNAL,
        [
          [1, text("o", "/org/freedesktop/systemd1")],
          [2, text("s", "org.freedesktop.systemd1.Manager")],
          [3, text("s", "JobRemoved")],
        ],
        "uoss",
        [this.#jobs, job, unit, answer.result ?? "done"],
      );
    const isFirst = this.#jobs % 2 === 0;
    if (isFirst && !answer.endless) removed();
    send(REPLY, [replySerial], "o", [job]);
    if (!isFirst && !answer.endless) removed();
  }
}
