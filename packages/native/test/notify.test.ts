/** The order that speaks to a service manager. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { encodePlan } from "@berth/kernel";
import { bosun } from "./bosun.ts";
import { until } from "./client.ts";

const notify = (socket: string): number | null =>
  spawnSync(bosun, ["run"], {
    input: encodePlan({ orders: [{ order: "notify", args: { socket, text: "READY=1\nSTATUS=well" } }] }),
  }).status;

const python = spawnSync("python3", ["--version"]).status === 0;
/** As busy as a manager may be: it looks late, and then for the sender's process. */
const LISTEN = `
import json, os, socket, struct, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
s.bind(sys.argv[1].replace("@", "\\0"))
open(sys.argv[2], "w").write("listening")
time.sleep(0.3)
text, control, _, _ = s.recvmsg(4096, 1024)
pid = next(struct.unpack("iII", data)[0] for _, kind, data in control if kind == socket.SCM_CREDENTIALS)
isThere = os.path.exists(f"/proc/{pid}/exe")
barrier, control, _, _ = s.recvmsg(4096, 1024)
fds = sum(len(data) // 4 for _, kind, data in control if kind == socket.SCM_RIGHTS)
open(sys.argv[3], "w").write(json.dumps([text.decode(), isThere, barrier.decode(), fds]))
`;

for (const kind of ["a path", "an abstract name"]) {
  test(
    `a datagram to ${kind}, whose sender waits until it has been read`,
    { skip: python ? false : "python3 is not installed" },
    async (t) => {
      const dir = mkdtempSync(join(tmpdir(), "bosun-notify-"));
      t.after(() => rmSync(dir, { recursive: true }));
      const socket = kind === "a path" ? join(dir, "socket") : `@berth-test-${process.pid}`;
      const listener = spawn("python3", ["-c", LISTEN, socket, join(dir, "up"), join(dir, "got")], {
        stdio: "inherit",
      });
      t.after(() => listener.kill());
      await until("it listens", () => existsSync(join(dir, "up")));
      assert.equal(notify(socket), 0);
      await until("it has come", () => existsSync(join(dir, "got")) && readFileSync(join(dir, "got")).length > 0);
      const got: unknown = JSON.parse(readFileSync(join(dir, "got"), "utf8"));
      assert.deepEqual(got, ["READY=1\nSTATUS=well", true, "BARRIER=1", 1]);
    },
  );
}

test("nobody there, or no name of a socket, is a failure", () => {
  assert.equal(notify("/no/such/socket"), 1);
  assert.equal(notify("relative"), 1);
  assert.equal(notify(""), 1);
});
