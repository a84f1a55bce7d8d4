/** Exec, attach and port-forward over TLS: with the node's own key pair, and with a certificate that berthd makes. */
import assert from "node:assert/strict";
import type { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect as dial } from "node:net";
import { hostname, tmpdir } from "node:os";
import { after, before, describe, test } from "node:test";
import { buffer } from "node:stream/consumers";
import { connect, getCACertificates, setDefaultCACertificates } from "node:tls";
import { checkout, run, TestDaemon } from "./support/daemon.ts";
import { runPod, sh, startContainer } from "./support/pods.ts";
import { CRICTL, crictl, rawWebSocket, spawnCrictl, spdyExec, webSocketMessages } from "./support/streams.ts";

const SERVE = "while :; do echo from the pod | nc -l -p 7777; done";
const OWN = `${checkout}/bin/crictl`;

let dir: string;
let daemon: TestDaemon;
let pod: Awaited<ReturnType<typeof runPod>>;
let id: string;
const file = (name: string): string => `${dir}/${name}`;

before(async () => {
  dir = mkdtempSync(`${tmpdir()}/berth-tls-`);
  const subject = ["-subj", "/CN=node", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
  const pair = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file("key.pem")];
  await run(["openssl", "req", "-x509", ...pair, "-out", file("cert.pem"), "-days", "2", ...subject]);
  // What Node's own clients trust in this process.
  setDefaultCACertificates([...getCACertificates(), readFileSync(file("cert.pem"), "utf8")]);
  daemon = await TestDaemon.start({ config: configOf(file("cert.pem"), file("key.pem")) });
  pod = await runPod(daemon);
  id = await startContainer(daemon, pod, SERVE);
});
after(async () => {
  await daemon[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

const configOf = (cert: string, key: string): string => `version = 3
[plugins.'io.containerd.grpc.v1.cri']
enable_tls_streaming = true
[plugins.'io.containerd.grpc.v1.cri'.x509_key_pair_streaming]
tls_cert_file = '${cert}'
tls_key_file = '${key}'
`;

const execUrl = async (script: string): Promise<string> =>
  (
    await daemon.client.runtime.exec({
      containerId: id,
      cmd: ["/bin/sh", "-c", script],
      stdin: true,
      stdout: true,
      stderr: true,
    })
  ).url;

describe("with the node's key pair", () => {
  test("SPDY: both ways, and the exit code", async () => {
    const url = await execUrl("cat; echo err >&2; exit 4");
    assert.match(url, /^https:\/\/127\.0\.0\.1:\d+\/exec\//);
    const exec = await spdyExec(url, { stdin: true });
    const sent = Buffer.alloc(3_000_000, "x");
    exec.stdin?.end(sent);
    assert.ok(sent.equals(await exec.stdout));
    assert.equal(String(await exec.stderr), "err\n");
    assert.match(await exec.status, /"ExitCode","message":"4"/);
    await exec.connection.closed;
  });

  test("WebSocket: both ways, and the end of the input", async () => {
    const { protocol, messages } = await webSocketMessages(
      await execUrl("cat; exit 5"),
      ["v5.channel.k8s.io"],
      (socket) => {
        socket.send(Buffer.from("\0typed"));
        socket.send(Buffer.of(255, 0));
      },
    );
    assert.equal(protocol, "v5.channel.k8s.io");
    assert.equal(messages.get(1)?.toString(), "typed");
    assert.match(messages.get(3)?.toString() ?? "", /"message":"5"/);
  });

  test("a client that speaks no TLS, or does not trust the certificate, gets nothing; one that vanishes leaves nothing", async () => {
    const url = await execUrl("cat");
    await assert.rejects(spdyExec(url.replace(/^https/, "http"), { stdin: true }));
    const { hostname: host, port } = new URL(url);
    const stranger = connect({ host, port: Number(port), ca: [] });
    const [error] = (await once(stranger, "error")) as [NodeJS.ErrnoException];
    assert.equal(error.code, "DEPTH_ZERO_SELF_SIGNED_CERT");
    const running = (): Promise<string> => sh(daemon, id, "pidof cat || true");
    const socket = await rawWebSocket(url, "v4.channel.k8s.io", 0, Buffer.from("x"));
    while ((await running()) === "");
    socket.destroy();
    while ((await running()) !== "");
  });

  for (const program of [OWN, CRICTL])
    test(
      `${program === OWN ? "berth's crictl" : "the real crictl"}: exec and port-forward by --tls-ca, --tls-cert, --tls-key, over both transports`,
      { skip: program === undefined && "there is no crictl on the path, and $CRICTL names none" },
      async () => {
        const tls = ["--tls-ca", file("cert.pem"), "--tls-cert", file("cert.pem"), "--tls-key", file("key.pem")];
        for (const transport of ["spdy", "websocket"]) {
          const flags = ["--transport", transport];
          for (const trust of [[], tls]) {
            const ran = await crictl(daemon, ["exec", ...flags, ...trust, id, "echo", "hello"], undefined, program);
            assert.deepEqual([ran.code, ran.stdout.toString()], [0, "hello\n"], ran.stderr);
          }
          const other = [...tls, "--tls-sni", "elsewhere.example"];
          const refused = await crictl(daemon, ["exec", ...flags, ...other, id, "echo", "hello"], undefined, program);
          assert.notEqual(refused.code, 0, "the certificate is for another name");
          assert.equal(refused.stdout.toString(), "");
          await forwarded(program ?? "", [...flags, ...tls]);
        }
      },
    );

  test("berth exec and berth attach", async () => {
    const berth = (...args: string[]): Promise<string> =>
      run([`${checkout}/bin/berth`, "--address", daemon.socket, ...args]);
    assert.equal(await berth("exec", id, "echo", "hello"), "hello\n");
    assert.match(await berth("run", "--rm", "localhost/berth-test/busybox:latest", "echo", "attached"), /attached\n$/);
  });
});

/** Talks to a server in the pod through a port that crictl listens on. */
async function forwarded(program: string, flags: readonly string[]): Promise<void> {
  // Between two connections there is a moment without a server.
  await sh(daemon, id, "until netstat -ltn | grep -q ':7777 '; do sleep 0.02; done");
  await using forward = spawnCrictl(daemon, ["port-forward", ...flags, pod.id, "0:7777"], program);
  const [, port] = await forward.until(/Forwarding from 127\.0\.0\.1:(\d+)/);
  assert.equal((await buffer(dial(Number(port), "127.0.0.1"))).toString(), "from the pod\n");
}

test("without a key pair berthd makes a certificate for this machine at each start", async () => {
  const config =
    'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nenable_tls_streaming = true\nstream_idle_timeout = "1s"\n';
  await using own = await TestDaemon.start({ config });
  const pod = await runPod(own);
  const container = await startContainer(own, pod, SERVE);
  const certificate = async (): Promise<X509Certificate> => {
    const { url } = await own.client.runtime.exec({ containerId: container, cmd: ["true"], stdout: true });
    const { hostname: host, port } = new URL(url);
    const socket = connect({ host, port: Number(port), rejectUnauthorized: false });
    await once(socket, "secureConnect");
    const found = socket.getPeerX509Certificate();
    socket.destroy();
    assert.ok(found);
    return found;
  };
  const first = await certificate();
  assert.ok(first.checkIP("127.0.0.1") !== undefined && first.checkHost(hostname()) !== undefined);
  assert.deepEqual(
    (await crictl(own, ["exec", container, "echo", "hello"], undefined, OWN)).stdout.toString(),
    "hello\n",
  );
  setDefaultCACertificates([...getCACertificates(), first.toString()]);
  const { url } = await own.client.runtime.exec({
    containerId: container,
    cmd: ["echo", "trusted"],
    stdout: true,
    stderr: true,
  });
  const exec = await spdyExec(url, {});
  assert.deepEqual([String(await exec.stdout), String(await exec.stderr)], ["trusted\n", ""]);
  assert.match(await exec.status, /"Success"/);
  // Nothing is said either way for a second: the stream ends, and its command with it.
  const cmd = ["sleep", "1234"];
  const silent = await own.client.runtime.exec({ containerId: container, cmd, stdout: true, stderr: true });
  const idle = await spdyExec(silent.url, {});
  await Promise.allSettled([idle.stdout, idle.stderr, idle.status, idle.connection.closed]);
  while ((await sh(own, container, "ps -o args")).includes("sleep 1234"));
  await own.kill("SIGTERM");
  await own.startAgain();
  assert.notEqual((await certificate()).fingerprint256, first.fingerprint256);
});
