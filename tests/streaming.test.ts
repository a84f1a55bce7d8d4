/** Exec, attach and port-forward as clients of any age ask for them. Needs root; the real crictl is used where there is one. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { cri } from "@berth/spec";
import { TestDaemon } from "./support/daemon.ts";
import { exited, runPod, sh, startContainer } from "./support/pods.ts";
import {
  CRICTL,
  crictl,
  rawWebSocket,
  sha256,
  spdy,
  spdyExec,
  upgradeToSpdy,
  webSocketMessages,
} from "./support/streams.ts";

const SLEEP = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
const noCrictl = CRICTL === undefined && "there is no crictl on the path, and $CRICTL names none";

let daemon: TestDaemon;
let pod: Awaited<ReturnType<typeof runPod>>;
let id: string;

before(async () => {
  daemon = await TestDaemon.start();
  pod = await runPod(daemon);
  id = await startContainer(daemon, pod, SLEEP);
});
after(async () => {
  await daemon[Symbol.asyncDispose]();
});

const execUrl = async (
  script: string,
  more: { stdin?: boolean; tty?: boolean } = {},
  containerId = id,
): Promise<string> => {
  const cmd = ["/bin/sh", "-c", script];
  const request = { containerId, cmd, stdout: true, stderr: !more.tty, stdin: false, tty: false, ...more };
  return (await daemon.client.runtime.exec(request)).url;
};

/** Processes of the container, the look itself and its shell left out. */
const processes = async (pattern: string): Promise<number> =>
  Number((await sh(daemon, id, `ps -o args | grep -c '^${pattern}' || true`)).trim());

async function eventually(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  for (const end = Date.now() + 60_000; !(await holds());) {
    if (Date.now() > end) assert.fail(`not within a minute: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The daemon's open sockets; its files come and go with workers that it starts when they are first of use. */
const sockets = (): number =>
  readdirSync(`/proc/${daemon.pid}/fd`).filter((fd) => linkOf(`/proc/${daemon.pid}/fd/${fd}`).startsWith("socket:"))
    .length;

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

describe("exec over SPDY", () => {
  test("outputs apart, and the exit code in each protocol's way", async () => {
    const script = "echo out; echo err >&2; exit 3";
    const told: Record<string, string> = {};
    for (const protocol of ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]) {
      const exec = await spdyExec(await execUrl(script), {}, [protocol]);
      assert.deepEqual([String(await exec.stdout), String(await exec.stderr)], ["out\n", "err\n"], protocol);
      told[protocol] = await exec.status;
      await exec.connection.closed;
    }
    const { status, reason, details } = JSON.parse(told["v4.channel.k8s.io"] ?? "") as Record<string, unknown>;
    assert.deepEqual(
      [status, reason, details],
      ["Failure", "NonZeroExitCode", { causes: [{ reason: "ExitCode", message: "3" }] }],
    );
    assert.equal(told["v3.channel.k8s.io"], "command terminated with exit code 3");
    assert.equal(told["channel.k8s.io"], "command terminated with exit code 3");
    const exec = await spdyExec(await execUrl("true"), {}, ["v2.channel.k8s.io"]);
    assert.equal(await exec.status, "", "success is silence before v4");
  });

  test("a client that names no version gets the first one", async () => {
    const exec = await spdyExec(await execUrl("echo old; exit 1"), {}, []);
    assert.equal(String(await exec.stdout), "old\n");
    assert.match(await exec.status, /exit code 1/);
  });

  test("20 MB both ways, stdin half-closed", async () => {
    const data = randomBytes(20 << 20);
    const exec = await spdyExec(await execUrl("cat; echo end >&2", { stdin: true }), { stdin: true });
    exec.stdin?.end(data);
    assert.equal(sha256(await exec.stdout), sha256(data));
    assert.equal(String(await exec.stderr), "end\n", "the command went on after its input had ended");
    assert.equal((JSON.parse(await exec.status) as { status: string }).status, "Success");
  });

  test("a command that does not read its input holds nobody up", async () => {
    const exec = await spdyExec(await execUrl("exec 0<&-; echo done", { stdin: true }), { stdin: true });
    exec.stdin?.write(randomBytes(8 << 20));
    assert.equal(String(await exec.stdout), "done\n");
    assert.match(await exec.status, /Success/);
  });

  test("a terminal, its sizes, and its end", async () => {
    const script = "trap 'stty size' WINCH; echo ready; while ! read line; do :; done; stty size; echo $line; exit 5";
    const exec = await spdyExec(await execUrl(script, { stdin: true, tty: true }), { stdin: true, tty: true });
    exec.resize?.write('{"Width":91,"Height":31}\n{"Width":1');
    exec.resize?.write('20,"Height":40}\n');
    // A resize and a line of input travel apart: the terminal has its size when it says so.
    await eventually("the size has come", async () =>
      (await sh(daemon, id, "for t in /dev/pts/[0-9]*; do stty size < $t; done 2>/dev/null || true")).includes(
        "40 120",
      ),
    );
    exec.stdin?.write("typed\n");
    const output = String(await exec.stdout);
    assert.match(output, /40 120\r\n/);
    assert.match(output, /typed\r\n$/);
    assert.match(await exec.status, /"message":"5"/);
  });

  test("what cannot be run is told on the error stream", async () => {
    const { url } = await daemon.client.runtime.exec({
      containerId: id,
      cmd: ["/no/such"],
      stdout: true,
      stderr: true,
    });
    const exec = await spdyExec(url, {});
    assert.match(await exec.status, /"reason":"InternalError".*|\/no\/such/);
  });

  test("a client that vanishes takes its command with it, also when it is not read from", async () => {
    const before = sockets();
    const idle = await spdyExec(await execUrl("sleep 1111", { stdin: true }), { stdin: true });
    const full = await spdyExec(await execUrl("sleep 2222", { stdin: true }), { stdin: true });
    for (const [exec, command] of [
      [idle, "sleep 1111"],
      [full, "sleep 2222"],
    ] as const) {
      for (const output of [exec.stdout, exec.stderr, exec.status]) output.catch(() => undefined);
      await eventually(`${command} runs`, async () => (await processes(command)) === 1);
    }
    full.stdin?.write(randomBytes(4 << 20));
    await new Promise((resolve) => setTimeout(resolve, 300));
    idle.connection.socket.destroy();
    full.connection.socket.resetAndDestroy();
    await eventually("both commands are gone", async () => (await processes("sleep [12][12][12][12]")) === 0);
    await eventually("their sockets are closed", () => sockets() <= before);
  });
});

describe("tokens and upgrades", () => {
  const refused = (url: string, protocols = ["v4.channel.k8s.io"]): Promise<string> =>
    upgradeToSpdy(url, protocols).then(
      () => assert.fail("it was accepted"),
      (error: Error) => error.message,
    );

  test("a token opens one stream, of its own kind", async () => {
    const url = await execUrl("true");
    await (
      await spdyExec(url, {})
    ).status;
    assert.match(await refused(url), /^404 /);
    assert.match(await refused((await execUrl("true")).replace("/exec/", "/attach/")), /^404 /);
    assert.match(await refused(`${new URL(url).origin}/exec/${"A".repeat(24)}`), /^404 /);
  });

  test("what is not offered is refused by name", async () => {
    assert.match(
      await refused(await execUrl("true"), ["v9.channel.k8s.io"]),
      /^403 .*v9\.channel\.k8s\.io.*v4\.channel\.k8s\.io/,
    );
    const answer = await fetch(await execUrl("true"), { method: "POST" });
    assert.equal(answer.status, 426);
    await answer.text();
  });

  test("bytes that are no SPDY end their connection alone", async () => {
    const good = await spdyExec(await execUrl("sleep 1; echo good"), {});
    const { socket } = await upgradeToSpdy(await execUrl("true"), ["v4.channel.k8s.io"]);
    socket.on("error", () => undefined);
    socket.write(randomBytes(4096).fill(0xff, 0, 8));
    await new Promise((resolve) => socket.resume().once("close", resolve));
    assert.equal(String(await good.stdout), "good\n");
  });
});

describe("exec over WebSocket", () => {
  const script = "cat; echo err >&2; exit 3";

  test("v5 closes channels, base64 is text, and the oldest tell in words", async () => {
    const v5 = await webSocketMessages(await execUrl(script, { stdin: true }), ["v5.channel.k8s.io"], (socket) => {
      socket.send(Buffer.concat([Buffer.of(0), Buffer.from("hello\n")]));
      socket.send(Buffer.of(255, 0));
    });
    assert.equal(v5.protocol, "v5.channel.k8s.io");
    assert.deepEqual([String(v5.messages.get(1)), String(v5.messages.get(2))], ["hello\n", "err\n"]);
    assert.match(String(v5.messages.get(3)), /"reason":"ExitCode","message":"3"/);
    for (const protocol of ["v4.base64.channel.k8s.io", "base64.channel.k8s.io", "channel.k8s.io"]) {
      const old = await webSocketMessages(
        await execUrl("head -n 1; echo err >&2; exit 3", { stdin: true }),
        [protocol],
        (socket) => {
          const line = Buffer.from("hello\n");
          socket.send(
            protocol.includes("base64") ? `0${line.toString("base64")}` : Buffer.concat([Buffer.of(0), line]),
          );
        },
      );
      assert.deepEqual([String(old.messages.get(1)), String(old.messages.get(2))], ["hello\n", "err\n"], protocol);
      const told = String(old.messages.get(3));
      if (protocol.startsWith("v4")) assert.match(told, /"NonZeroExitCode"/);
      else assert.equal(told, "command terminated with exit code 3");
    }
  });

  test("a client that vanishes while it is not read from", async () => {
    const url = await execUrl("sleep 3333", { stdin: true });
    const socket = await rawWebSocket(url, "v5.channel.k8s.io", 0, Buffer.alloc(8 << 20));
    await eventually("the command runs", async () => (await processes("sleep 3333")) === 1);
    socket.resetAndDestroy();
    await eventually("the command is gone", async () => (await processes("sleep 3333")) === 0);
  });
});

describe("attach", () => {
  test("a million lines reach a client that is slow to begin", async () => {
    const container = await startContainer(daemon, pod, "read go; seq 1 1000000", { stdin: true, stdinOnce: true });
    const { url } = await daemon.client.runtime.attach({
      containerId: container,
      stdin: true,
      stdout: true,
      stderr: true,
    });
    const attached = await spdyExec(url, { stdin: true });
    attached.stdin?.end("go\n");
    const lines = String(await attached.stdout);
    assert.equal(lines.length, 6_888_896);
    assert.ok(lines.startsWith("1\n2\n3\n") && lines.endsWith("999999\n1000000\n"));
    await exited(daemon, container);
  });

  test("one who leaves does not end the container", async () => {
    const container = await startContainer(daemon, pod, "while read line; do echo got $line; done", { stdin: true });
    const attach = async () =>
      spdyExec(
        (await daemon.client.runtime.attach({ containerId: container, stdin: true, stdout: true, stderr: true })).url,
        { stdin: true },
      );
    const first = await attach();
    for (const output of [first.stdout, first.stderr, first.status]) output.catch(() => undefined);
    first.connection.socket.destroy();
    const second = await attach();
    second.stdin?.write("again\n");
    await eventually("the container still answers", async () =>
      readFileSync(
        (await daemon.client.runtime.containerStatus({ containerId: container })).status?.logPath ?? "",
        "utf8",
      ).includes("got again"),
    );
    second.connection.socket.destroy();
    for (const output of [second.stdout, second.stderr, second.status]) output.catch(() => undefined);
  });
});

describe("port-forward", () => {
  /** The pod's own server: everything that comes, digested at its end, so that a half-close is what makes it answer. */
  const DIGEST = "while :; do nc -l -p 9000 -e sha256sum; done";
  const PORT = 9000;

  const forwardUrl = async (ports: number[] = [], podSandboxId = pod.id): Promise<string> =>
    (await daemon.client.runtime.portForward({ podSandboxId, port: ports })).url;

  async function once(connection: Awaited<ReturnType<typeof spdy>>, port: number, request: string, data: Uint8Array) {
    const headers = (type: string) =>
      new Map([
        ["streamtype", type],
        ["port", String(port)],
        ["requestid", request],
      ]);
    const error = await connection.open(headers("error"));
    error.end();
    const stream = await connection.open(headers("data"));
    stream.end(data);
    const [answer, failure] = await Promise.all([buffer(stream), buffer(error)]);
    return { answer: String(answer), failure: String(failure) };
  }

  test("connections one after another and at once, each half-closed, and a port that nobody serves", async () => {
    await startContainer(daemon, pod, DIGEST);
    await eventually("the server listens", async () => (await sh(daemon, id, "netstat -ltn")).includes(`:${PORT} `));
    const data = randomBytes(5 << 20);
    const connection = await spdy(await forwardUrl(), ["portforward.k8s.io"]);
    const first = await once(connection, PORT, "0", data);
    assert.deepEqual(first, { answer: `${sha256(data)}  -\n`, failure: "" });
    const nobody = await once(connection, 9999, "1", Buffer.alloc(0));
    assert.match(nobody.failure, new RegExp(`^error forwarding port 9999 to pod ${pod.id}, uid : .*ECONNREFUSED`));
    connection.socket.destroy();
  });

  test("a pod on the host's network, 60 connections at once over one SPDY connection", async () => {
    const before = sockets();
    const server: Server = createServer((socket: Socket) => void socket.pipe(socket));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    const network = cri.NamespaceMode.NODE;
    const host = await runPod(daemon, { linux: { securityContext: { namespaceOptions: { network } } } });
    const connection = await spdy(await forwardUrl([], host.id), ["portforward.k8s.io"]);
    const data = randomBytes(200_000);
    const headers = (type: string, request: number) =>
      new Map([
        ["streamtype", type],
        ["port", String(port)],
        ["requestid", String(request)],
      ]);
    const digests = await Promise.all(
      Array.from({ length: 60 }, async (_, request) => {
        const error = await connection.open(headers("error", request));
        error.end();
        error.resume();
        const stream = await connection.open(headers("data", request));
        stream.end(data);
        return sha256(await buffer(stream));
      }),
    );
    assert.deepEqual(new Set(digests), new Set([sha256(data)]));
    connection.socket.destroy();
    server.close();
    await daemon.client.runtime.removePodSandbox({ podSandboxId: host.id });
    await eventually("every socket is closed", () => sockets() <= before);
  });

  test("streams that say nothing useful are refused, and a forward needs a ready pod", async () => {
    const connection = await spdy(await forwardUrl(), ["portforward.k8s.io"]);
    for (const [type, port] of [
      ["data", "0"],
      ["data", "x"],
      ["stdin", "80"],
      ["error", "70000"],
    ] as const)
      await assert.rejects(
        connection.open(
          new Map([
            ["streamtype", type],
            ["port", port],
            ["requestid", "1"],
          ]),
        ),
        /refused/,
      );
    connection.socket.destroy();
    await assert.rejects(forwardUrl([0]), /port: 0 is no TCP port/);
    await assert.rejects(forwardUrl([], "nobody"), /not found/);
  });

  test("the WebSocket way: each channel begins with its port", async () => {
    const container = await startContainer(daemon, pod, "echo from the pod | nc -l -p 9100");
    await eventually("the server listens", async () => (await sh(daemon, id, "netstat -ltn")).includes(":9100 "));
    const { messages } = await webSocketMessages(await forwardUrl([9100]), ["v4.channel.k8s.io"], (socket) => {
      let read = 0;
      socket.addEventListener("message", (event: MessageEvent) => {
        read += (event.data as ArrayBuffer).byteLength;
        // The port on both channels, and the words on the first.
        if (read >= 2 * 3 + 1 + "from the pod\n".length) socket.close();
      });
    });
    assert.deepEqual(
      messages.get(0),
      Buffer.concat([Buffer.of(9100 & 0xff, 9100 >> 8), Buffer.from("from the pod\n")]),
    );
    assert.deepEqual(messages.get(1), Buffer.of(9100 & 0xff, 9100 >> 8));
    await daemon.client.runtime.removeContainer({ containerId: container });
  });
});

test("200 sessions at once, and nothing left of them", async () => {
  const before = sockets();
  const sessions = await Promise.all(
    Array.from({ length: 200 }, async (_, number) => {
      const exec = await spdyExec(await execUrl(`read line; echo ${number} $line`, { stdin: true }), { stdin: true });
      return { exec, number };
    }),
  );
  for (const { exec } of sessions) exec.stdin?.end("hello\n");
  const answers = await Promise.all(sessions.map(async ({ exec }) => String(await exec.stdout)));
  assert.deepEqual(
    answers,
    sessions.map(({ number }) => `${number} hello\n`),
  );
  await Promise.all(sessions.map(({ exec }) => exec.connection.closed));
  await eventually("every socket is closed", () => sockets() <= before);
  await eventually("every command is gone", async () => (await processes("/bin/sh -c read line")) === 0);
});

describe("the real crictl", { skip: noCrictl }, () => {
  for (const transport of ["spdy", "websocket"]) {
    test(`exec over ${transport}: outputs, exit code, large data both ways`, async () => {
      const failed = await crictl(daemon, ["exec", "-r", transport, id, "sh", "-c", "echo out; echo err >&2; exit 3"]);
      assert.equal(failed.code, 1, "crictl has one exit code for every failure");
      assert.equal(String(failed.stdout), "out\n");
      assert.match(failed.stderr, /^err\n.*command terminated with exit code 3/s);
      const data = randomBytes(10 << 20);
      const echoed = await crictl(daemon, ["exec", "-i", "-r", transport, id, "cat"], data);
      assert.deepEqual([echoed.code, sha256(echoed.stdout)], [0, sha256(data)], echoed.stderr);
    });

    test(`attach over ${transport}`, async () => {
      const container = await startContainer(daemon, pod, "read line; echo got $line", {
        stdin: true,
        stdinOnce: true,
      });
      const attached = await crictl(daemon, ["attach", "-i", "-r", transport, container], Buffer.from("word\n"));
      assert.deepEqual([attached.code, String(attached.stdout)], [0, "got word\n"], attached.stderr);
    });
  }
});
