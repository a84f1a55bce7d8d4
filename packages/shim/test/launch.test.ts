/** How shims are found, started and understood: containerd's names, command lines and bootstrap protocols. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { decodePlan, encodePlan } from "@berth/kernel";
import { bootstrap, cgroups1, cgroups2, runcOptions, task, ttrpc } from "@berth/spec/shim";
import {
  bootstrapCommand,
  deleteCommand,
  fifosIn,
  packJson,
  packMessage,
  parseBootstrap,
  planShimProcess,
  shimBinary,
  startCommand,
  statsOf,
  unpackJson,
  unpackMessage,
  wantsBootstrap,
} from "../src/index.ts";
import { handlerOptions } from "../src/server/bootstrap.ts";
import { FrameDecoder } from "@berth/ttrpc";

test("binaries by containerd's rule", () => {
  assert.equal(shimBinary("io.containerd.runc.v2"), "containerd-shim-runc-v2");
  assert.equal(shimBinary("io.containerd.runsc.v1"), "containerd-shim-runsc-v1");
  assert.equal(shimBinary("kata.v2"), "containerd-shim-kata-v2");
  assert.equal(shimBinary("/opt/kata/bin/containerd-shim-kata-v2"), "/opt/kata/bin/containerd-shim-kata-v2");
  for (const wrong of ["runc", "", ".runc.v2", "io.containerd.runc."])
    assert.equal(shimBinary(wrong), undefined, wrong);
});

describe("what start answers", () => {
  const parsed = (said: string) => parseBootstrap(Buffer.from(said));
  test("an address", () => {
    assert.deepEqual(parsed("unix:///run/containerd/s/abc\n"), {
      address: "/run/containerd/s/abc",
      version: 2,
    });
    assert.deepEqual(parsed("unix://@/containerd-shim/x.sock@"), {
      address: "@/containerd-shim/x.sock@",
      version: 2,
    });
    assert.deepEqual(parsed("/run/s"), { address: "/run/s", version: 2 });
  });

  test("version 3's JSON", () => {
    const said = { version: 3, address: "unix:///run/s", protocol: "ttrpc" };
    assert.deepEqual(parsed(JSON.stringify(said)), { address: "/run/s", version: 3 });
    assert.deepEqual(parsed(JSON.stringify({ ...said, version: 2 })), { address: "/run/s", version: 2 });
  });

  test("containerd 2.3's message", () => {
    const result = create(bootstrap.BootstrapResultSchema, { version: 3, address: "unix:///run/s", protocol: "ttrpc" });
    const said = (message: bootstrap.BootstrapResult) => toBinary(bootstrap.BootstrapResultSchema, message);
    assert.deepEqual(parseBootstrap(said(result)), { address: "/run/s", version: 3 });
    assert.throws(() => parseBootstrap(said({ ...result, protocol: "grpc" })), /speaks "grpc"/);
  });

  test("what cannot be spoken with is refused by name", () => {
    const said = { version: 3, address: "unix:///run/s", protocol: "grpc" };
    assert.throws(() => parsed(JSON.stringify(said)), /speaks "grpc"; berth speaks ttrpc/);
    assert.throws(() => parsed(JSON.stringify({ ...said, protocol: "ttrpc", version: 4 })), /version 4/);
    assert.throws(() => parsed(JSON.stringify({ version: 3 })), /no address/);
    assert.throws(() => parsed("tcp://127.0.0.1:1"), /no unix socket/);
    assert.throws(() => parsed(""), /no unix socket/);
  });
});

test("standard input: options alone, or in what containerd 2.3 says; each is told from the other", () => {
  const invocation = { namespace: "k8s.io", id: "abc" };
  const call = { ...invocation, path: "/bin/shim", bundle: "/b", address: "/run/s.sock", env: {} };
  const options = packMessage(runcOptions.OptionsSchema, { systemdCgroup: true });
  for (const { stdin } of [startCommand(call, options), bootstrapCommand(call, options)])
    assert.deepEqual(handlerOptions(stdin ?? new Uint8Array(), invocation), options);
  assert.equal(handlerOptions(new Uint8Array(), invocation), undefined);
  assert.equal(handlerOptions(bootstrapCommand(call, undefined).stdin ?? new Uint8Array(), invocation), undefined);
  const said =
    "shim was started through the deprecated API but was built against the new API; if you upgraded containerd";
  assert.deepEqual([wantsBootstrap(said), wantsBootstrap("exec format error")], [true, false]);
});

test("command lines, environment and options", () => {
  const call = {
    path: "/bin/shim",
    namespace: "k8s.io",
    id: "abc",
    bundle: "/b",
    address: "/run/s.sock",
    env: { A: "1" },
  };
  const options = packMessage(runcOptions.OptionsSchema, { binaryName: "crun" });
  const { argv, cwd, env, stdin } = startCommand(call, options);
  assert.equal(
    argv.join(" "),
    "/bin/shim -namespace k8s.io -address /run/s.sock -publish-binary /bin/false -id abc start",
  );
  assert.equal(cwd, "/b");
  assert.deepEqual(
    [env.A, env.TTRPC_ADDRESS, env.GRPC_ADDRESS, env.NAMESPACE, env.MAX_SHIM_VERSION],
    ["1", "/run/s.sock.ttrpc", "/run/s.sock", "k8s.io", "3"],
  );
  const told = unpackMessage(fromBinary(AnySchema, stdin ?? new Uint8Array()), runcOptions.OptionsSchema);
  assert.equal(told?.binaryName, "crun");
  assert.match(deleteCommand(call).argv.join(" "), /-id abc -bundle \/b delete$/);
});

test("Any: messages by their bare name, the rest as JSON", () => {
  const any = packMessage(task.KillRequestSchema, { id: "a", signal: 9 });
  assert.equal(any.typeUrl, "containerd.task.v2.KillRequest");
  const prefixed = { ...any, typeUrl: `type.googleapis.com/${any.typeUrl}` };
  assert.equal(unpackMessage(prefixed, task.KillRequestSchema)?.signal, 9);
  assert.equal(unpackMessage(any, task.StateRequestSchema), undefined);
  const spec = packJson("Process", { args: ["true"] });
  assert.equal(spec.typeUrl, "types.containerd.io/opencontainers/runtime-spec/1/Process");
  assert.deepEqual(unpackJson(spec), { args: ["true"] });
});

test("what stands for a process: bosun's order, with frames that a number can be put into", () => {
  const shim = { address: "@x", version: 3 } as const;
  const fifos = fifosIn("/io", "e", false, false);
  const plan = planShimProcess({ shim, namespace: "n", id: "c", execId: "e", terminal: false, fifos, parks: true });
  const orders = decodePlan(encodePlan(plan)).orders;
  assert.deepEqual(
    orders.map(({ order }) => order),
    ["make_fifo", "open", "make_fifo", "open", "clone", "park", "shim_process"],
  );
  const last = orders.at(-1);
  assert.ok(last?.order === "shim_process");
  const put = (frame: Uint8Array, at: number, value: number): void =>
    frame.set(
      [0, 7, 14, 21, 28].map((shift, i) => ((value >>> shift) & 0x7f) | (i < 4 ? 0x80 : 0)),
      frame.length - at,
    );
  const payload = (frame: Uint8Array): ttrpc.Request =>
    fromBinary(ttrpc.RequestSchema, [...new FrameDecoder().push(Buffer.from(frame))][0]?.data ?? new Uint8Array());
  const { kill, resize, start, closeInput } = last.args;
  assert.deepEqual([payload(start).service, payload(start).method], ["containerd.task.v3.Task", "Start"]);
  put(kill, 5, 64);
  assert.equal(fromBinary(task.KillRequestSchema, payload(kill).payload).signal, 64);
  put(resize, 11, 65_535);
  put(resize, 5, 24);
  const size = fromBinary(task.ResizePtyRequestSchema, payload(resize).payload);
  assert.deepEqual([size.id, size.execId, size.width, size.height], ["c", "e", 65_535, 24]);
  assert.equal(fromBinary(task.CloseIORequestSchema, payload(closeInput).payload).stdin, true);
});

test("statistics of either version of cgroups", () => {
  const v1 = packMessage(cgroups1.MetricsSchema, {
    cpu: { usage: { total: 5n } },
    memory: {
      usage: { usage: 100n, limit: 200n },
      swap: { usage: 130n, limit: 0x7ffffffffffff000n },
      totalInactiveFile: 40n,
      totalRss: 30n,
    },
    pids: { current: 3n },
  });
  const one = statsOf(v1);
  assert.deepEqual(
    [one?.cpuNs, one?.memoryBytes, one?.workingSetBytes, one?.swapBytes, one?.memoryLimitBytes, one?.swapLimitBytes],
    [5n, 100n, 60n, 30n, 200n, undefined],
  );
  const v2 = packMessage(cgroups2.MetricsSchema, {
    cpu: { usageUsec: 5n },
    memory: { usage: 100n, inactiveFile: 120n, anon: 30n, usageLimit: 0xffffffffffffffffn },
  });
  const two = statsOf(v2);
  assert.deepEqual(
    [two?.cpuNs, two?.workingSetBytes, two?.rssBytes, two?.memoryLimitBytes],
    [5_000n, 0n, 30n, undefined],
  );
  assert.equal(statsOf(packJson("Process", {})), undefined);
});
