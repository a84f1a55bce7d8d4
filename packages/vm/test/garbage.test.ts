/** Guests whose kernel, bosun or agent is somebody else's now: what they tell of themselves is refused, or is something that can be. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Hand, HostFacts, Order } from "@berth/kernel";
import { parseAddresses, parseLinks, parsePermanentNeighbours, parseRoutes } from "@berth/kernel/netlink";
import { agent } from "@berth/spec/kata";
import fc from "fast-check";
import { AgentClient } from "../src/agent/client.ts";
import { followOoms } from "../src/agent/oom.ts";
import { statsOfAgent, volumeStatsOf } from "../src/agent/stats.ts";
import { believable } from "../src/guest/believable.ts";
import { countProcesses } from "../src/guest/bosun/processes.ts";
import { cgroupDetail, cgroupStats } from "../src/guest/bosun/stats.ts";
import { bosunTools } from "../src/guest/bosun/tools.ts";
import { mergeFamilies, parseExposition, withLabels } from "../src/monitor/exposition.ts";
import type { Guest } from "../src/sandbox/guest.ts";

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-vm-garbage-"));
});
after(() => rmSync(dir, { recursive: true }));

/** What files of /proc and of cgroups are made of, and what they never are. */
const word = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom(
      ..."usage_usec anon inactive_file MemTotal: cpu cpu0 eth0: max 8:0 rbytes=1 some".split(" "),
    ),
  },
  { weight: 4, arbitrary: fc.bigInt({ min: -1n, max: 1n << 70n }).map(String) },
  fc.constantFrom("-", "(", ")", "__proto__", "9".repeat(400), " ".repeat(2000), "\0", "{", "}", '"', "NaN", "1e999"),
  fc.string({ maxLength: 8, unit: "binary" }),
);
const text = fc
  .array(
    fc.array(word, { maxLength: 6 }).map((words) => words.join(" ")),
    { maxLength: 6 },
  )
  .map((lines) => Buffer.from(lines.join("\n")));
const output = fc.oneof({ weight: 6, arbitrary: text }, fc.uint8Array({ maxLength: 60 }), fc.constant(undefined));
const outputs = fc.array(output, { minLength: 24, maxLength: 24 });

/** Answers each plan with the same. */
function guestOf(told: readonly (Uint8Array | undefined)[]): Guest {
  const run = ({ orders }: { orders: readonly Order[] }): Promise<Map<number, Uint8Array | undefined>> =>
    Promise.resolve(new Map(orders.map((_, index) => [index, told[index % told.length]])));
  const cgroups = {
    mode: "v2",
    v1: [],
    unified: { mountpoint: "/sys/fs/cgroup", controllers: ["cpu", "memory", "pids", "io"] },
  };
  const facts = { cgroups: { ...cgroups, swap: true, delegate: [], bfq: false } } as unknown as HostFacts;
  return { hand: { run } as unknown as Hand, facts, reach: () => Promise.reject(new Error("no way")) };
}

/** An error, or a value of numbers that a message has room for. */
async function told<T>(work: Promise<T>): Promise<T | undefined> {
  let value: T;
  try {
    value = await work;
  } catch (error) {
    assert.ok(error instanceof Error);
    return undefined;
  }
  return believable(value);
}

test("what a guest's files say", async () => {
  await fc.assert(
    fc.asyncProperty(outputs, async (said) => {
      const guest = guestOf(said);
      const tools = bosunTools(guest);
      await told(cgroupStats(guest, dir, "/berth/c"));
      await told(cgroupDetail(guest, dir, "/berth/c"));
      await told(countProcesses(guest, [1, 2]));
      await told(tools.usage());
      await told(tools.boot());
      await told(tools.volumeStats("/volume"));
      const metrics = await told(tools.metrics());
      // What it answers can be read by whoever puts the metrics of all machines together.
      if (metrics !== undefined) parseExposition(metrics);
    }),
    { numRuns: 300 },
  );
});

test("a number that a message has no room for is refused, so that it breaks no list of all pods", async () => {
  const guest = guestOf([Buffer.from(String(1n << 64n))]);
  await assert.rejects(
    cgroupStats(guest, dir, "/berth/c"),
    /the guest tells a number that cannot be as memoryBytes: 18446744073709551616/,
  );
});

test("what a guest's network says", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.boolean(), fc.nat(30), (bytes, framed, type) => {
      const head = Buffer.alloc(16);
      head.writeUInt32LE(16 + bytes.length, 0);
      head.writeUInt16LE(type, 4);
      const message = framed ? Buffer.concat([head, bytes]) : Buffer.from(bytes);
      for (const parse of [parseLinks, parseAddresses, parseRoutes, parsePermanentNeighbours])
        try {
          parse(message);
        } catch (error) {
          assert.ok(error instanceof Error);
        }
    }),
    { numRuns: 2000 },
  );
});

test("metrics of an agent's own making take no time and no other pod's place", () => {
  const began = performance.now();
  for (const line of [
    `a${" ".repeat(1 << 20)}x y z`,
    `a{${'b="c",'.repeat(1 << 17)} 1`,
    `a{b="${"\\".repeat(1 << 20)}`,
    "#".repeat(1 << 20),
    `# TYPE ${" ".repeat(1 << 20)}`,
  ])
    try {
      parseExposition(line);
    } catch (error) {
      assert.match((error as Error).message, /^line 1: /);
    }
  assert.ok(performance.now() - began < 20_000);
  const many = parseExposition(`kata_guest_load{sandbox_id="another"} 1\n`.repeat(1 << 18));
  const [own] = mergeFamilies([...many, ...many].map((one) => withLabels(one, { sandbox_id: "own" })));
  assert.equal(own?.samples.length, 1 << 19);
  assert.ok(own.samples.every(({ labels }) => labels["sandbox_id"] === "own"));
});

test("what an agent answers", async (t) => {
  let said: Uint8Array = new Uint8Array();
  const open = new Set<Socket>();
  const path = join(dir, "agent.sock");
  const server = createServer((socket) => {
    open.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => open.delete(socket));
    // To the first request: that it is well. To any other what is to be tried, on the stream that was asked on.
    let asked = 0;
    socket.on("data", (request: Buffer) => {
      const frame = (body: Uint8Array): Buffer => {
        const head = Buffer.alloc(10);
        head.writeUInt32BE(body.length, 0);
        request.copy(head, 4, 4, 8);
        head[8] = 2;
        return Buffer.concat([head, body]);
      };
      if (asked++ === 0) socket.write(frame(Buffer.from("12020801", "hex")));
      else if (asked % 2 === 0) socket.write(frame(said));
      else socket.end(said);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  const { method } = agent.AgentService;
  const within = { timeoutMs: 500 };
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 120 }), async (bytes) => {
      said = bytes;
      const client = await AgentClient.connect({ socket: path }, { timeoutMs: 5_000 });
      const stats = await told(client.call(method.statsContainer, { containerId: "c" }, within));
      if (stats) await told(Promise.resolve().then(() => statsOfAgent(stats)));
      const volume = await told(client.call(method.getVolumeStats, { volumeGuestPath: "/v" }, within));
      if (volume) await told(Promise.resolve().then(() => volumeStatsOf(volume)));
      client.close();
    }),
    { numRuns: 60 },
  );
});

test("an agent that tells of nothing but kills for memory is heard, and one complaint is made of it", async (t) => {
  const warnings: string[] = [];
  let asked = 0;
  const client = {
    call: () => {
      if (++asked > 20) return Promise.reject(new Error("enough"));
      return Promise.resolve({ containerId: `../../${"x".repeat(1 << 16)}` });
    },
    check: () => Promise.resolve(),
  } as unknown as AgentClient;
  await followOoms(client, dir, (message) => void warnings.push(message));
  assert.equal(warnings.length, 2);
  assert.ok(warnings.every((warning) => warning.length < 300));
  t.diagnostic(warnings.join("\n"));
});
