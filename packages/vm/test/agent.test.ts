/**
 * Containers by Kata's agent, against a double of it: bosun's order agent_process stands for each, so that streams, signals, sizes and
 * codes pass; an agent that refuses, goes or talks nonsense ends the stand-in and nothing else. Once more with bosun's sanitizers.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { buffer, text } from "node:stream/consumers";
import { after, before, describe, test, type TestContext } from "node:test";
import {
  connectMonitor,
  type Hand,
  MonitorLost,
  type MonitorLink,
  OrderError,
  type Plan,
  startHand,
  STREAM,
} from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { agent } from "@berth/spec/kata";
import { CODE, encodeFrame, FrameDecoder, TtrpcError, TYPE } from "@berth/ttrpc";
import fc from "fast-check";
import { AgentClient } from "../src/agent/client.ts";
import { agentRuntime } from "../src/agent/containers.ts";
import { followOoms } from "../src/agent/oom.ts";
import { toldByAgent } from "../src/agent/words.ts";
import { VmError } from "../src/errors.ts";
import type { GuestRuntime } from "../src/guest/runtime.ts";
import { standInOom, standInPlan } from "../src/guest/stand-in.ts";
import { AgentDouble } from "./support/agent.ts";

const native = join(import.meta.dirname, "../../native");
const built = join(native, "../../.build/native");
const hasClang = spawnSync("clang", ["--version"]).error === undefined;
const { SIGKILL, SIGTERM, SIGUSR1 } = constants.signals;
const LOST = 137;

function specOf(script: string, terminal = false): oci.Spec {
  return {
    ociVersion: "1.2.0",
    root: { path: "/" },
    process: { user: { uid: 0, gid: 0 }, cwd: "/", args: ["sh", "-c", script], env: ["PATH=/usr/bin:/bin"], terminal },
    linux: { namespaces: [{ type: "pid" }, { type: "mount" }] },
  };
}

for (const name of ["bosun", "bosun-asan"]) {
  const skip =
    process.getuid?.() !== 0 ? "needs root" : name === "bosun-asan" && !hasClang ? "clang is not installed" : false;
  describe(`containers by Kata's agent, with ${name}`, { skip }, () => {
    let directory = "";
    let hand: Hand;
    let count = 0;
    before(async () => {
      if (skip) return;
      execFileSync(join(native, "build"), name === "bosun" ? [] : ["--sanitize"]);
      // A leak is looked for by tracing the process at its end, which plans make impossible in many ways.
      process.env["ASAN_OPTIONS"] = "detect_leaks=0";
      directory = mkdtempSync(join(tmpdir(), "berth-agent-"));
      hand = await startHand({ bosun: join(built, name), state: directory });
    });
    after(async () => {
      if (skip) return;
      await hand.close();
      rmSync(directory, { recursive: true });
    });

    interface Setting {
      readonly machine: string;
      readonly double: AgentDouble;
      readonly client: AgentClient;
      readonly runtime: GuestRuntime;
      readonly socket: string;
    }

    async function setting(t: TestContext): Promise<Setting> {
      const machine = join(directory, `m${++count}`);
      mkdirSync(machine);
      const double = new AgentDouble();
      const socket = join(machine, "agent.sock");
      await double.server.listen(socket);
      const client = await AgentClient.connect({ socket }, { timeoutMs: 60_000 });
      const runtime = agentRuntime({
        client,
        directory: machine,
        seccomp: true,
        sharesPids: false,
        sysctls: { "net.ipv4.ip_unprivileged_port_start": "0" },
        createMs: 60_000,
      });
      t.after(async () => {
        client.close();
        await double.close();
      });
      return { machine, double, client, runtime, socket };
    }

    interface Made {
      readonly id: string;
      readonly link: MonitorLink;
      readonly dir: string;
    }

    async function make(
      t: TestContext,
      { runtime }: Pick<Setting, "runtime">,
      script: string,
      { terminal = false, stdin = false } = {},
    ): Promise<Made> {
      const id = `c${++count}`;
      const dir = join(directory, id);
      mkdirSync(dir);
      const last = await runtime.create({
        id,
        spec: specOf(script, terminal),
        terminal,
        stdin,
        directory: dir,
        seccompCache: dir,
        warn: () => undefined,
      });
      return { id, dir, link: await parked(t, dir, standInPlan(last, { terminal, parks: true }), { terminal, stdin }) };
    }

    async function parked(t: TestContext, dir: string, plan: Plan, { terminal = false, stdin = false } = {}) {
      const size = terminal ? { rows: 24, columns: 80 } : undefined;
      await hand.monitor({ dir, plan, stdin, stdinOnce: true, terminal: size, oom: standInOom(dir) });
      const link = await connectMonitor(dir, plan);
      t.after(async () => {
        try {
          await link.kill(0, SIGKILL);
          await link.exited;
        } catch (error) {
          // It has ended, and its monitor with it.
          if (!(error instanceof MonitorLost)) throw error;
        }
        link.close();
      });
      return link;
    }

    test("a container's life: made, started, asked about, given signals, ended, forgotten", async (t) => {
      const at = await setting(t);
      const { runtime, double } = at;
      const script = "trap 'echo usr1' USR1; trap 'exit 5' TERM; echo out; echo err >&2; while :; do sleep 0.01; done";
      const { id, link, dir } = await make(t, at, script);
      const asked = double.last<agent.CreateContainerRequest>("CreateContainer");
      assert.deepEqual([asked.containerId, asked.execId, asked.sandboxPidns], [id, id, false]);
      assert.equal(asked.OCI?.Linux?.Sysctl["net.ipv4.ip_unprivileged_port_start"], "0");
      assert.ok(!double.names().includes("StartContainer"), "it waits to be started");
      const [stdout, stderr] = [await link.attach(0, STREAM.stdout), await link.attach(0, STREAM.stderr)];
      await link.start();
      const lines = stdout[Symbol.asyncIterator]();
      const heard = async (): Promise<string> => String((await lines.next()).value);
      assert.equal(await heard(), "out\n");
      assert.equal(String((await stderr[Symbol.asyncIterator]().next()).value), "err\n");
      await double.heard("CloseStdin");
      await link.kill(0, SIGUSR1);
      assert.equal(await heard(), "usr1\n");
      await runtime.signal(id, SIGUSR1);
      assert.equal(await heard(), "usr1\n");

      assert.deepEqual(await runtime.stats(id, dir), {
        cpuNs: 7_000_000n,
        memoryBytes: 1000n,
        workingSetBytes: 700n,
        rssBytes: 500n,
        pageFaults: 3n,
        majorPageFaults: 1n,
        memoryLimitBytes: 2000n,
        swapBytes: 10n,
        swapLimitBytes: undefined,
        pids: 2n,
        pressure: undefined,
      });
      await runtime.online(3, 2);
      const { nbCpus, cpuOnly } = double.last<agent.OnlineCPUMemRequest>("OnlineCPUMem");
      assert.deepEqual([nbCpus, cpuOnly], [2, true]);
      await runtime.pause(id);
      await runtime.resume(id);
      await runtime.update(id, { memory: { limit: 1 << 26 }, cpu: { shares: 512, cpus: "0-1" }, pids: { limit: 7 } });
      const { resources } = double.last<agent.UpdateContainerRequest>("UpdateContainer");
      assert.deepEqual([resources?.Memory?.Limit, resources?.CPU?.Shares, resources?.CPU?.Cpus], [1n << 26n, 512n, ""]);

      await runtime.signal(id, SIGTERM);
      const { code, oom } = await link.exited;
      assert.deepEqual([code, oom], [5, false]);
      await runtime.release(id);
      assert.equal(double.containers.size, 0);
      // Nobody minds that there is nothing any more.
      await runtime.release(id);
      await runtime.signal(id, SIGTERM);
      assert.equal(await runtime.kill(id), false);
      assert.equal(await runtime.stats(id, dir), undefined);
    });

    test("input and output of any size, and the end of the input", async (t) => {
      const at = await setting(t);
      const { link } = await make(t, at, "cat; echo end >&2; exit 7", { stdin: true });
      const [stdin, stdout, stderr] = [
        await link.attach(0, STREAM.stdin),
        await link.attach(0, STREAM.stdout),
        await link.attach(0, STREAM.stderr),
      ];
      await link.start();
      const bytes = Buffer.alloc(1_500_000, "some input\n");
      stdin.end(bytes);
      const [out, err] = await Promise.all([buffer(stdout), text(stderr)]);
      assert.ok(out.equals(bytes));
      assert.equal(err, "end\n");
      assert.equal((await link.exited).code, 7);
    });

    test("a process that closes its outputs runs on, and its end is told", async (t) => {
      const at = await setting(t);
      const { link, id } = await make(t, at, "exec >&- 2>&-; exec sleep 1000");
      const stdout = await link.attach(0, STREAM.stdout);
      await link.start();
      assert.equal(await text(stdout), "");
      await at.double.heard("WaitProcess");
      assert.equal(await at.runtime.kill(id), true);
      assert.equal((await link.exited).code, 128 + SIGKILL);
    });

    test("a terminal has one output, and its size is told", async (t) => {
      const at = await setting(t);
      const { link } = await make(t, at, "read line; echo got $line; exit 3", { terminal: true });
      const [stdin, stdout] = [await link.attach(0, STREAM.stdin), await link.attach(0, STREAM.stdout)];
      await link.start();
      await at.double.heard("TtyWinResize");
      await link.resize(0, 30, 100);
      stdin.write("word\n");
      assert.equal(await text(stdout), "got word\n");
      assert.equal((await link.exited).code, 3);
      assert.deepEqual(at.double.sizes, ["24x80", "30x100"]);
    });

    test("further processes: collected, failing, refused, and ended when nobody is interested any more", async (t) => {
      const at = await setting(t);
      const { id, link, dir } = await make(t, at, "exec sleep 1000");
      await link.start();
      const exec = async (script: string) => {
        const process = specOf(script).process as oci.Process;
        return await at.runtime.exec({ id, process, directory: dir, seccompCache: dir, drainMs: 100 });
      };
      {
        await using call = await exec("echo out; echo err >&2; exit 9");
        const { code, stdout, stderr } = await link.execSync({
          plan: standInPlan(call.last, { terminal: false, parks: false }),
        });
        assert.deepEqual([code, String(stdout), String(stderr)], [9, "out\n", "err\n"]);
      }
      at.double.refusals.set("ExecProcess", new TtrpcError(CODE.internal, "no such program"));
      {
        await using call = await exec("true");
        const work = call.told(link.execSync({ plan: standInPlan(call.last, { terminal: false, parks: false }) }));
        await assert.rejects(
          work,
          (error) => error instanceof VmError && /^the guest's agent: no such program$/.test(error.message),
        );
      }
      at.double.refusals.clear();
      const abort = new AbortController();
      {
        await using call = await exec("exec sleep 1000");
        const plan = standInPlan(call.last, { terminal: false, parks: false });
        const lasting = link.execSync({ plan }, { signal: abort.signal });
        await until(() => at.double.containers.get(id)?.size === 2);
        abort.abort(new Error("no longer wanted"));
        await assert.rejects(lasting, /no longer wanted/);
      }
      assert.deepEqual([...(at.double.containers.get(id)?.keys() ?? [])], [id]);
    });

    test("a start that the agent refuses is told in its words, without its backtrace", async (t) => {
      const at = await setting(t);
      const { link } = await make(t, at, "true");
      at.double.refusals.set(
        "StartContainer",
        new TtrpcError(CODE.internal, "no fifo for it\n\nCaused by:\n    ENOENT\n\nStack backtrace:\n   0: main"),
      );
      await assert.rejects(toldByAgent(link.start()), (error) => {
        assert.ok(error instanceof VmError && error.cause instanceof OrderError);
        assert.equal(error.cause.orderName, "agent_process");
        assert.equal(error.message, "the guest's agent: no fifo for it: ENOENT");
        return true;
      });
    });

    test("a kill for memory is one here", async (t) => {
      const at = await setting(t);
      const warnings: string[] = [];
      void followOoms(at.client, at.machine, (message) => warnings.push(message));
      const { id, link, dir } = await make(t, at, "read go; kill -9 $$", { stdin: true });
      const stdin = await link.attach(0, STREAM.stdin);
      await link.start();
      at.double.oom("../../etc/passwd");
      at.double.oom("c0");
      at.double.oom(id);
      await until(() => readFileSync(standInOom(dir).file, "utf8") === "oom_kill 1\n");
      stdin.end("go\n");
      const { code, oom } = await link.exited;
      assert.deepEqual([code, oom], [128 + SIGKILL, true]);
      assert.deepEqual(warnings, ['the guest\'s agent tells of a kill for memory in "../../etc/passwd"']);
    });

    test("an agent that vanishes is the end of its processes, at once, with 137, and of calls", async (t) => {
      const at = await setting(t);
      const [one, two] = [await make(t, at, "exec sleep 1000"), await make(t, at, "exec sleep 1000")];
      await one.link.start();
      await two.link.start();
      at.double.silent.add("PauseContainer");
      const paused = at.runtime.pause(one.id);
      await at.double.heard("PauseContainer");
      await at.double.close();
      await assert.rejects(paused, /the guest's agent: PauseContainer: .*the connection has ended/);
      assert.deepEqual([(await one.link.exited).code, (await two.link.exited).code], [LOST, LOST]);
    });

    test("an agent that does not answer in time", async (t) => {
      const at = await setting(t);
      at.double.silent.add("CreateSandbox");
      const { agent: interfaces } = await import("@berth/spec/kata");
      const { method } = interfaces.AgentService;
      await assert.rejects(
        at.client.call(method.createSandbox, {}, { timeoutMs: 20 }),
        /the guest's agent: CreateSandbox: .*no answer within 20 ms/,
      );
      const reason = new Error("given up");
      await assert.rejects(at.client.call(method.createSandbox, {}, { signal: AbortSignal.abort(reason) }), reason);
    });

    test("whatever an agent answers, its stand-in ends and its monitor does not", async (t) => {
      const garbage: readonly Buffer[] = [
        Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"),
        encodeFrame({ stream: 2, type: TYPE.response, flags: 0, data: new Uint8Array() }),
        encodeFrame({ stream: 1, type: TYPE.data, flags: 0, data: new Uint8Array(5) }),
        Buffer.from([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0]),
      ];
      for (const answer of garbage) {
        const { link, dispose } = await against(t, (socketWrite) => socketWrite(answer));
        await assert.rejects(link.start(), OrderError);
        await dispose();
      }
      // After a start that succeeds: everything is answered by what nobody could have meant.
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.uint8Array({ maxLength: 200 }), { minLength: 1, maxLength: 4 }),
          async (answers) => {
            const { link, dispose } = await against(t, (socketWrite, frame, position) => {
              if (position === 0)
                return socketWrite(encodeFrame({ ...frame, type: TYPE.response, data: new Uint8Array() }));
              const data = answers[position % answers.length] ?? new Uint8Array();
              const at = { stream: frame.stream, type: TYPE.response, flags: 0, data };
              socketWrite(position > 40 ? Buffer.from("nonsense that is no frame") : encodeFrame(at));
            });
            await link.start();
            const { code } = await link.exited;
            assert.ok(code >= 0 && code <= 255);
            await dispose();
          },
        ),
        { numRuns: name === "bosun" ? 10 : 25 },
      );
    });

    /** A container's stand-in, parked, whose agent is `answer`. */
    async function against(
      t: TestContext,
      answer: (write: (data: Buffer) => void, frame: { stream: number; flags: number }, position: number) => void,
    ): Promise<{ link: MonitorLink; dispose: () => Promise<void> }> {
      const at = await setting(t);
      const { id } = await make(t, at, "true");
      const socket = join(at.machine, "liar.sock");
      const server: Server = createServer((connection) => {
        const decoder = new FrameDecoder();
        let position = 0;
        connection.on("error", () => connection.destroy());
        connection.on("data", (chunk: Buffer) => {
          for (const { stream, flags } of decoder.push(chunk))
            answer((data) => void connection.write(data), { stream, flags }, position++);
        });
      });
      const { promise, resolve } = Promise.withResolvers<void>();
      server.listen(socket, resolve);
      await promise;
      const dir = join(directory, `l${++count}`);
      mkdirSync(dir);
      const { agentProcessOrder } = await import("../src/agent/process.ts");
      const { requestFrame } = await import("@berth/ttrpc");
      const { agent: interfaces } = await import("@berth/spec/kata");
      const start = requestFrame(interfaces.AgentService.method.startContainer, { containerId: id });
      const last = agentProcessOrder({ socket }, { containerId: id, execId: "", start, terminal: false, stdin: false });
      const plan = standInPlan(last, { terminal: false, parks: true });
      await hand.monitor({ dir, plan });
      const link = await connectMonitor(dir, plan);
      return {
        link,
        dispose: async () => {
          link.close();
          at.client.close();
          await at.double.close();
          const closed = Promise.withResolvers<void>();
          server.close(() => closed.resolve());
          await closed.promise;
        },
      };
    }
  });
}

async function until(isSo: () => boolean): Promise<void> {
  for (const end = Date.now() + 60_000; !isSo(); await new Promise((resolve) => setTimeout(resolve, 5)))
    if (Date.now() > end) throw new Error("not within a minute");
}
