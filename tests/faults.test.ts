/** What breaks, and what berthd makes of it: nothing leaked, and an error that says what happened. Needs root. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { after, before, describe, test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { status as codes } from "@grpc/grpc-js";
import { busyboxFiles, file, imageArchive } from "../scripts/busybox-image.ts";
import { IMAGE, TestDaemon, run } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import {
  OWN_PID,
  containerConfig,
  createContainer,
  exited,
  runPod,
  sandboxConfig,
  sh,
  startContainer,
  status,
} from "./support/pods.ts";

const SLEEP = "while :; do sleep 1000; done";
/** Milliseconds after which a client goes away. */
const TURNS = [0, 1, 3, 8, 20];

async function silentServer(): Promise<AsyncDisposable & { readonly port: number }> {
  const open = new Set<Socket>();
  const server = createServer((socket) => void open.add(socket.on("error", () => socket.destroy())));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      for (const socket of open) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
const later = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Of this daemon: processes whose command line has these words. */
function processes(...words: readonly string[]): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, "latin1");
        return words.every((word) => line.includes(word));
      } catch (error) {
        if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
        throw error;
      }
    })
    .map(Number);
}

/** The parent of the container's process is its monitor. */
async function monitorOf(daemon: TestDaemon, containerId: string): Promise<number> {
  const { info } = await daemon.client.runtime.containerStatus({ containerId, verbose: true });
  const { pid } = JSON.parse(info.info ?? "") as { pid: number };
  return parentOf(pid);
}

const parentOf = (pid: number): number =>
  Number(/^PPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

describe("faults", () => {
  let daemon: TestDaemon;
  before(async () => {
    daemon = await TestDaemon.start();
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });

  test("bosun serve killed: what it was doing fails by name, the next call has a new one, containers live on", async () => {
    const nothing = await inventory(daemon);
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, SLEEP);
    for (let round = 0; round < 3; round++) {
      // Monitors were forked from it, and have its command line.
      const serve = processes("serve", `${daemon.state}/serve.sock`).find((pid) => parentOf(pid) === daemon.pid);
      assert.ok(serve !== undefined);
      const said = ({ code, message }: Error & { code: number }): string => `${codes[code]}: ${message}`;
      const caught = Array.from({ length: 4 }, () => createContainer(daemon, pod, "true").then(() => "made", said));
      await later(round * 4);
      process.kill(serve, "SIGKILL");
      for (const outcome of await Promise.all(caught))
        assert.match(outcome, /^made$|UNAVAILABLE.*(bosun serve|connection)/i);
      assert.equal(await sh(daemon, id, "echo alive"), "alive\n");
      await startContainer(daemon, pod, SLEEP);
    }
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, nothing);
  });

  test("a monitor killed: its container is ended and says so, its pod goes on", async () => {
    const nothing = await inventory(daemon);
    const pod = await runPod(daemon);
    const [victim, other] = [await startContainer(daemon, pod, SLEEP), await startContainer(daemon, pod, SLEEP)];
    process.kill(await monitorOf(daemon, victim), "SIGKILL");
    const { exitCode, reason, message, finishedAt } = await exited(daemon, victim);
    assert.deepEqual([exitCode, reason], [255, "Unknown"]);
    assert.match(message, /monitor ended before the container did/);
    assert.ok(finishedAt > 0n);
    assert.equal(await sh(daemon, other, "echo alive"), "alive\n");
    await assert.rejects(sh(daemon, victim, "true"), { code: codes.FAILED_PRECONDITION });
    await daemon.client.runtime.stopContainer({ containerId: victim, timeout: 1n });
    await daemon.client.runtime.removeContainer({ containerId: victim });
    await startContainer(daemon, pod, SLEEP);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, nothing);
  });

  test("a monitor killed while berthd does not run is found out at its start", async () => {
    const pod = await runPod(daemon);
    const victim = await startContainer(daemon, pod, SLEEP);
    const monitor = await monitorOf(daemon, victim);
    await daemon.kill("SIGKILL");
    process.kill(monitor, "SIGKILL");
    await daemon.startAgain();
    const { state, exitCode, reason } = await status(daemon, victim);
    assert.deepEqual([state, exitCode, reason], [cri.ContainerState.CONTAINER_EXITED, 255, "Unknown"]);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("a stopped container (SIGSTOP) is still measured, entered, and ended after its grace period", async () => {
    const nothing = await inventory(daemon);
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, SLEEP);
    const { info } = await daemon.client.runtime.containerStatus({ containerId: id, verbose: true });
    process.kill((JSON.parse(info.info ?? "") as { pid: number }).pid, "SIGSTOP");
    assert.ok((await daemon.client.runtime.containerStats({ containerId: id })).stats?.memory);
    assert.equal(await sh(daemon, id, "echo entered"), "entered\n");
    const began = Date.now();
    await daemon.client.runtime.stopContainer({ containerId: id, timeout: 1n });
    assert.ok(Date.now() - began >= 990 && Date.now() - began < 60_000);
    assert.equal((await status(daemon, id)).exitCode, 137);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    await assertNothingLeft(daemon, nothing);
  });

  test("a client that vanishes in the middle of any call leaves what a whole call leaves, or nothing", async () => {
    const pod = await runPod(daemon);
    const kept = await startContainer(daemon, pod, SLEEP);
    const before = await inventory(daemon);
    // What can be done once only is done to five.
    const victims = await Promise.all(
      Array.from({ length: TURNS.length }, async () => {
        const own = await runPod(daemon);
        const [running, idle] = [await startContainer(daemon, own, SLEEP), await startContainer(daemon, own, SLEEP)];
        return { pod: own.id, running, idle, created: await createContainer(daemon, own, SLEEP) };
      }),
    );
    const victim = (turn: number): (typeof victims)[number] => victims[turn] ?? assert.fail();
    // A registry that takes connections and says nothing.
    await using silent = await silentServer();
    const image = { image: `127.0.0.1:${silent.port}/silent:latest` };
    const requests: Record<string, (turn: number) => Record<string, unknown>> = {
      version: () => ({}),
      status: () => ({ verbose: true }),
      runPodSandbox: () => ({ config: sandboxConfig(daemon) }),
      podSandboxStatus: () => ({ podSandboxId: pod.id }),
      listPodSandbox: () => ({}),
      createContainer: () => ({ podSandboxId: pod.id, config: containerConfig(SLEEP), sandboxConfig: pod.config }),
      listContainers: () => ({}),
      containerStatus: () => ({ containerId: kept, verbose: true }),
      updateContainerResources: (turn) => ({ containerId: kept, linux: { cpuShares: BigInt(500 + turn) } }),
      reopenContainerLog: () => ({ containerId: kept }),
      execSync: () => ({ containerId: kept, cmd: ["sleep", "0.2"], timeout: 5n }),
      exec: () => ({ containerId: kept, cmd: ["true"], stdout: true }),
      attach: () => ({ containerId: kept, stdout: true }),
      portForward: () => ({ podSandboxId: pod.id, port: [80] }),
      containerStats: () => ({ containerId: kept }),
      listContainerStats: () => ({}),
      podSandboxStats: () => ({ podSandboxId: pod.id }),
      listPodSandboxStats: () => ({}),
      updatePodSandboxResources: () => ({ podSandboxId: pod.id }),
      checkpointContainer: () => ({ containerId: kept, location: `${daemon.dir}/c` }),
      listMetricDescriptors: () => ({}),
      listPodSandboxMetrics: () => ({}),
      runtimeConfig: () => ({}),
      updateRuntimeConfig: () => ({}),
      streamPodSandboxes: () => ({}),
      streamContainers: () => ({}),
      streamContainerStats: () => ({}),
      streamPodSandboxStats: () => ({}),
      streamPodSandboxMetrics: () => ({}),
      getContainerEvents: () => ({}),
      startContainer: (turn) => ({ containerId: victim(turn).created }),
      stopContainer: (turn) => ({ containerId: victim(turn).running, timeout: 1n }),
      removeContainer: (turn) => ({ containerId: victim(turn).idle }),
      stopPodSandbox: (turn) => ({ podSandboxId: victim(turn).pod }),
      removePodSandbox: (turn) => ({ podSandboxId: victim(turn).pod }),
      listImages: () => ({}),
      streamImages: () => ({}),
      imageStatus: () => ({ image: { image: IMAGE }, verbose: true }),
      imageFsInfo: () => ({}),
      pullImage: () => ({ image }),
      removeImage: () => ({ image }),
    };
    const methods = [...cri.RuntimeService.methods, ...cri.ImageService.methods];
    assert.deepEqual(
      methods.map(({ localName }) => localName).filter((name) => !Object.hasOwn(requests, name)),
      [],
    );
    const vanish = async (name: string, request: Record<string, unknown>, ms: number): Promise<void> => {
      const method = methods.find(({ localName }) => localName === name);
      assert.ok(method);
      const session = connectHttp2("http://localhost", { createConnection: () => connect(daemon.socket) });
      session.on("error", () => {});
      const call = session.request({
        ":method": "POST",
        ":path": `/${method.parent.typeName}/${method.name}`,
        "content-type": "application/grpc",
        te: "trailers",
      });
      call.on("error", () => {});
      call.resume();
      const body = toBinary(method.input, create(method.input, request));
      const head = Buffer.alloc(5);
      head.writeUInt32BE(body.length, 1);
      call.end(Buffer.concat([head, body]));
      await later(ms);
      session.destroy();
    };
    for (const [name, request] of Object.entries(requests))
      await Promise.all(TURNS.map((ms, turn) => vanish(name, request(turn), ms)));
    // What was made whole before its client was gone is the kubelet's to find and remove; it is listed once it is whole.
    const kinds = async (): Promise<number> => {
      const { items } = await daemon.client.runtime.listPodSandbox({});
      const { containers } = await daemon.client.runtime.listContainers({});
      for (const { id } of containers)
        if (id !== kept) await daemon.client.runtime.removeContainer({ containerId: id });
      for (const { id } of items) if (id !== pod.id) await daemon.client.runtime.removePodSandbox({ podSandboxId: id });
      return items.length + containers.length;
    };
    const asBefore = async (): Promise<boolean> =>
      (await kinds()) === 2 && JSON.stringify(await inventory(daemon)) === JSON.stringify(before);
    for (let quiet = 0; quiet < 4; quiet = (await asBefore()) ? quiet + 1 : 0) await later(250);
    assert.equal(await sh(daemon, kept, "echo alive"), "alive\n");
    await assertNothingLeft(daemon, before);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("1,000 requests that are malformed, or break off: each fails alone, and berthd grows by nothing", async (t) => {
    const nothing = await inventory(daemon);
    const paths = [...cri.RuntimeService.methods, ...cri.ImageService.methods].map(
      ({ parent, name }) => `/${parent.typeName}/${name}`,
    );
    const descriptors = (): number => readdirSync(`/proc/${daemon.pid}/fd`).length;
    await daemon.client.runtime.version({});
    const open = descriptors();
    const answers = new Map<string, number>();
    // The same garbage in every run.
    let seed = 1;
    const random = (): number => (seed = (seed * 48271) % 0x7fffffff);
    const garbage = (size: number): Buffer => Buffer.from(Array.from({ length: size }, () => random() & 0xff));
    const kinds: readonly ((path: string) => { path: string; body: Buffer; cut?: boolean; type?: string })[] = [
      // Bytes that are no protobuf.
      (path) => ({ path, body: framed(garbage(1 + (random() % 200))) }),
      // A frame that says it is longer than it is.
      (path) => ({ path, body: framed(garbage(20), 4000) }),
      // The same, and the client goes.
      (path) => ({ path, body: framed(garbage(20), 4000), cut: true }),
      // A field that says it is longer than the message.
      (path) => ({ path, body: framed(Buffer.from([0x0a, 0xff, 0xff, 0xff, 0x7f, 1])) }),
      // Compressed, they say.
      (path) => ({ path, body: Buffer.concat([Buffer.from([1, 0, 0, 0, 4]), garbage(4)]) }),
      // More than any message of the CRI.
      (path) => ({ path, body: framed(Buffer.alloc(10), 64 << 20) }),
      // Not gRPC, and no such call.
      (path) => ({ path, body: garbage(10), type: "text/plain" }),
      (path) => ({ path: `${path}Not`, body: framed(Buffer.alloc(0)) }),
    ];
    for (let batch = 0; batch < 20; batch++) {
      const session = connectHttp2("http://localhost", { createConnection: () => connect(daemon.socket) });
      session.on("error", () => {});
      await Promise.all(
        Array.from({ length: 50 }, (_, at) => {
          const path = paths[(batch * 50 + at) % paths.length] ?? "";
          const request = kinds[(batch + at) % kinds.length]?.(path);
          assert.ok(request);
          return send(session, request).then((answer) => answers.set(answer, (answers.get(answer) ?? 0) + 1));
        }),
      );
      session.destroy();
      // Not even HTTP.
      const socket = connect(daemon.socket);
      socket.on("error", () => {});
      socket.resume();
      socket.end(garbage(100));
      await new Promise((resolve) => socket.once("close", resolve));
    }
    assert.equal(
      [...answers.values()].reduce((sum, count) => sum + count, 0),
      1000,
    );
    for (const answer of answers.keys())
      assert.ok(
        ["gone", "0", "3", "5", "8", "9", "12", "13", "1", "2"].includes(answer),
        `unexpected answer ${answer}`,
      );
    t.diagnostic(JSON.stringify(Object.fromEntries(answers)));
    assert.equal((await daemon.client.runtime.version({})).runtimeName, "berth");
    for (const end = Date.now() + 60_000; descriptors() > open + 2 && Date.now() < end;) await later(50);
    assert.ok(descriptors() <= open + 2, `${descriptors()} descriptors, ${open} before`);
    await assertNothingLeft(daemon, nothing);
  });

  test("a name is free again after removal, after a start that failed, and after one that was given up", async () => {
    const config = sandboxConfig(daemon);
    const { runtime } = daemon.client;
    for (let round = 0; round < 3; round++) {
      const { podSandboxId } = await runtime.runPodSandbox({ config });
      await assert.rejects(runtime.runPodSandbox({ config }), { code: codes.ALREADY_EXISTS });
      const container = containerConfig("true", { metadata: { name: "same", attempt: 0 } });
      for (let again = 0; again < 2; again++) {
        const request = { podSandboxId, config: container, sandboxConfig: config };
        const { containerId } = await runtime.createContainer(request);
        await assert.rejects(runtime.createContainer(request), { code: codes.ALREADY_EXISTS });
        await runtime.removeContainer({ containerId });
        await assert.rejects(
          runtime.createContainer({ ...request, config: { ...container, devices: [{ hostPath: "/dev/none-such" }] } }),
          { code: codes.INVALID_ARGUMENT },
        );
      }
      await runtime.removePodSandbox({ podSandboxId });
      const bad = { ...config, linux: { securityContext: OWN_PID, sysctls: { "net.none.such": "1" } } };
      await assert.rejects(runtime.runPodSandbox({ config: bad }), /net.none.such/);
    }
  });
});

const framed = (body: Buffer, says = body.length): Buffer => {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(says, 1);
  return Buffer.concat([head, body]);
};

/** The grpc-status, or "gone" where there was none. */
function send(
  session: ReturnType<typeof connectHttp2>,
  { path, body, cut, type = "application/grpc" }: { path: string; body: Buffer; cut?: boolean; type?: string },
): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const call = session.request({ ":method": "POST", ":path": path, "content-type": type, te: "trailers" });
  call.on("error", () => resolve("gone"));
  call.on("close", () => resolve("gone"));
  const answer = (headers: Record<string, unknown>): void => {
    const code = headers["grpc-status"];
    if (typeof code !== "string") return;
    resolve(code);
    call.close();
  };
  call.on("response", answer);
  call.on("trailers", answer);
  call.on("data", () => {});
  // Streams of events never end by themselves.
  setTimeout(() => call.close(), 300).unref();
  if (!cut) call.end(body);
  else call.write(body, () => call.close(8));
  return promise;
}

describe("a full disk", () => {
  const onSmallDisk = async (
    what: "root" | "state" | "logs",
    size: string,
    body: (daemon: TestDaemon) => Promise<void>,
  ): Promise<void> => {
    await using daemon = await TestDaemon.start();
    await daemon.kill("SIGTERM");
    const path = what === "logs" ? `${daemon.dir}/logs` : daemon[what];
    await run(["sh", "-c", `mkdir -p ${path} && mount -t tmpfs -o size=${size} tmpfs ${path}`]);
    await daemon.startAgain();
    if (what === "root") {
      writeFileSync(`${daemon.dir}/again.tar`, imageArchive(IMAGE, await busyboxFiles(), { Cmd: ["sh"] }));
      await daemon.load(`${daemon.dir}/again.tar`);
    }
    try {
      await body(daemon);
    } finally {
      empty(path);
      const { items } = await daemon.client.runtime.listPodSandbox({});
      for (const { id } of items) await daemon.client.runtime.removePodSandbox({ podSandboxId: id });
      await daemon.kill("SIGTERM");
      await run(["umount", "-l", path]);
      await daemon.startAgain();
    }
  };
  const fill = async (path: string): Promise<void> => {
    await run([
      "sh",
      "-c",
      `dd if=/dev/zero of=${path}/ballast bs=64k 2>/dev/null; dd if=/dev/zero of=${path}/ballast2 bs=1 count=65536 2>/dev/null; true`,
    ]);
  };
  const empty = (path: string): void => {
    for (const name of ["ballast", "ballast2"]) rmSync(`${path}/${name}`, { force: true });
  };
  const full = (error: Error & { code: number }): boolean => {
    assert.match(error.message, /ENOSPC|no space|disk is full|database or disk/i);
    return true;
  };

  test("of images: the load fails by name and leaves nothing, what runs goes on", async () => {
    await onSmallDisk("root", "24m", async (daemon) => {
      const pod = await runPod(daemon);
      const before = await inventory(daemon);
      const id = await startContainer(daemon, pod, SLEEP);
      const big = file("big", Buffer.from(Array.from({ length: 24 << 20 }, (_, at) => (at * 2654435761) >>> 13)));
      writeFileSync(`${daemon.dir}/big.tar`, imageArchive("localhost/berth-test/big:1", [big], {}));
      await assert.rejects(daemon.load(`${daemon.dir}/big.tar`), full);
      assert.equal((await daemon.client.images.listImages({})).images.length, 1);
      assert.equal(await sh(daemon, id, "echo alive"), "alive\n");
      const { imageFilesystems } = await daemon.client.images.imageFsInfo({});
      assert.ok((imageFilesystems[0]?.usedBytes?.value ?? 0n) < 12n << 20n, "what the load had written is gone");
      await fill(daemon.root);
      // The database's log may have room for a few records more.
      const made: string[] = [];
      for (;;) {
        const one = await createContainer(daemon, pod, "true").catch((error: Error & { code: number }) => {
          full(error);
          return undefined;
        });
        if (one === undefined) break;
        made.push(one);
        assert.ok(made.length < 200);
      }
      await daemon.client.runtime.stopContainer({ containerId: id, timeout: 0n });
      empty(daemon.root);
      for (const containerId of [...made, id]) await daemon.client.runtime.removeContainer({ containerId });
      await assertNothingLeft(daemon, before);
      await startContainer(daemon, pod, SLEEP);
    });
  });

  test("of state: a pod fails by name and leaves nothing, and can be run when there is room again", async () => {
    await onSmallDisk("state", "4m", async (daemon) => {
      const nothing = await inventory(daemon);
      await fill(daemon.state);
      await assert.rejects(daemon.client.runtime.runPodSandbox({ config: sandboxConfig(daemon) }), full);
      empty(daemon.state);
      await assertNothingLeft(daemon, nothing);
      const pod = await runPod(daemon);
      await fill(daemon.state);
      await assert.rejects(createContainer(daemon, pod, "true"), full);
      empty(daemon.state);
      assert.equal((await daemon.client.runtime.listContainers({})).containers.length, 0);
      await startContainer(daemon, pod, SLEEP);
    });
  });

  test("of logs: the container waits for room and loses no line; one that waits can be stopped", async () => {
    await onSmallDisk("logs", "1m", async (daemon) => {
      const pod = await runPod(daemon);
      const LINES = 15_000;
      const script = `i=0; while [ $i -lt ${LINES} ]; do echo $i a line that fills the disk of logs; i=$((i+1)); done; exit 6`;
      const id = await startContainer(daemon, pod, script);
      const { logPath } = await status(daemon, id);
      for (let last = -1, size = 0; last !== size; await later(300)) [last, size] = [size, statSync(logPath).size];
      assert.equal((await status(daemon, id)).state, cri.ContainerState.CONTAINER_RUNNING);
      await run(["mount", "-o", "remount,size=16m", `${daemon.dir}/logs`]);
      assert.equal((await exited(daemon, id)).exitCode, 6);
      const lines = readFileSync(logPath, "utf8").trimEnd().split("\n");
      assert.deepEqual(
        lines.map((line) => Number(/ stdout F (\d+) a line/.exec(line)?.[1])),
        Array.from({ length: LINES }, (_, at) => at),
      );
      await fill(`${daemon.dir}/logs`);
      const waits = await startContainer(daemon, pod, "while :; do echo a line for which there is no room; done");
      await later(300);
      const began = Date.now();
      await daemon.client.runtime.stopContainer({ containerId: waits, timeout: 1n });
      assert.ok(Date.now() - began < 60_000);
      assert.equal((await status(daemon, waits)).state, cri.ContainerState.CONTAINER_EXITED);
    });
  });
});
