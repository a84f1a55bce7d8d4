/** The QMP client, with a double of QEMU at the other end of a socket. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { removeCpu } from "../src/hypervisor/qemu/resize.ts";
import { Qmp, QmpError } from "../src/qmp/client.ts";

const GREETING = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 } }, capabilities: [] } };

interface Command {
  readonly execute: string;
  readonly arguments: unknown;
  readonly id: number;
}

let dir: string;
let server: Server;
let answer: (command: Command, socket: Socket) => unknown;
const sockets = new Set<Socket>();

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "berth-qmp-"));
  answer = () => ({});
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.write(`${JSON.stringify(GREETING)}\r\n`);
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString();
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) {
        const command = JSON.parse(line) as Command;
        const said = command.execute === "qmp_capabilities" ? {} : answer(command, socket);
        if (said !== undefined) socket.write(`${JSON.stringify({ return: said, id: command.id })}\r\n`);
      }
    });
  });
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(join(dir, "qmp"), resolve);
  await promise;
});
afterEach(() => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  server.close();
  rmSync(dir, { recursive: true });
});

test("commands are answered by their ids, whatever the order", async () => {
  const waiting: Command[] = [];
  answer = (command, socket) => {
    waiting.push(command);
    if (waiting.length < 2) return undefined;
    for (const { id, execute } of waiting.toReversed())
      socket.write(`${JSON.stringify({ return: { execute }, id })}\n`);
    return undefined;
  };
  const qmp = await Qmp.connect(join(dir, "qmp"));
  assert.equal(qmp.version, "7.2.22");
  const answers = await Promise.all([qmp.execute("first"), qmp.execute("second", { a: 1 })]);
  assert.deepEqual(answers, [{ execute: "first" }, { execute: "second" }]);
  assert.deepEqual(waiting[1]?.arguments, { a: 1 });
  qmp.close();
});

test("a refusal is an error with its class and the command's name", async () => {
  answer = ({ id }, socket) => {
    socket.write(`${JSON.stringify({ error: { class: "DeviceNotFound", desc: "Device 'x' not found" }, id })}\n`);
    return undefined;
  };
  const qmp = await Qmp.connect(join(dir, "qmp"));
  await assert.rejects(qmp.execute("device_del", { id: "x" }), (error) => {
    assert.ok(error instanceof QmpError);
    assert.equal(error.class, "DeviceNotFound");
    assert.equal(error.message, "device_del: Device 'x' not found");
    return true;
  });
  qmp.close();
});

test("events come between answers, and one can be waited for", async () => {
  answer = (_command, socket) => {
    for (const device of ["a", "b"]) socket.write(`${JSON.stringify({ event: "DEVICE_DELETED", data: { device } })}\n`);
    return {};
  };
  const qmp = await Qmp.connect(join(dir, "qmp"));
  const deleted = qmp.event(({ event, data }) => event === "DEVICE_DELETED" && data["device"] === "b", "unplug b");
  await qmp.execute("device_del", { id: "b" });
  assert.deepEqual((await deleted).data, { device: "b" });
  qmp.close();
});

test("whoever waits is told when the hypervisor ends, or talks nonsense", async () => {
  for (const [end, reason] of [
    [(socket: Socket) => void socket.end(), /query-status: the hypervisor at .* is gone: the connection ended/],
    [(socket: Socket) => void socket.write("QEMU?\n"), /it sent what is not JSON: QEMU\?/],
  ] as const) {
    answer = (_command, socket) => end(socket);
    const qmp = await Qmp.connect(join(dir, "qmp"));
    await assert.rejects(qmp.execute("query-status"), reason);
    await qmp.ended;
    assert.equal(qmp.isOpen, false);
    await assert.rejects(qmp.execute("query-status"), /is gone/);
  }
});

test("a processor has gone when its guest says that it has, and no sooner", async () => {
  let there = true;
  let status = 0;
  answer = ({ execute, id }, socket) => {
    const slots = [{ type: "cpu", props: {}, ...(there && { "qom-path": "/machine/peripheral/cpu-1" }) }];
    if (execute === "query-hotpluggable-cpus") return slots;
    const tell = (source: number, code: number): void => {
      const info = { device: "cpu-1", slot: "1", "slot-type": "CPU", source, status: code };
      socket.write(`${JSON.stringify({ event: "ACPI_DEVICE_OST", data: { info } })}\n`);
    };
    socket.write(`${JSON.stringify({ return: {}, id })}\n`);
    tell(1, 0);
    tell(3, 0x84);
    there = status !== 0;
    tell(3, status);
    return undefined;
  };
  const qmp = await Qmp.connect(join(dir, "qmp"));
  await removeCpu(qmp, "cpu-1");
  [there, status] = [true, 1];
  await assert.rejects(removeCpu(qmp, "cpu-1"), { code: "Guest", message: /the guest does not let go/ });
  qmp.close();
});

test("an abort ends the wait with its reason", async () => {
  answer = () => undefined;
  const qmp = await Qmp.connect(join(dir, "qmp"));
  const abort = new AbortController();
  const waiting = qmp.execute("query-status", {}, { signal: abort.signal });
  abort.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/);
  qmp.close();
});
