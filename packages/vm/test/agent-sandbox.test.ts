/** What Kata's agent is asked, by whichever way it is reached: the order of a sandbox's start, and configs as they are translated. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { oci } from "@berth/spec";
import type { agent } from "@berth/spec/kata";
import { TtrpcError } from "@berth/ttrpc";
import { AgentClient, AgentError } from "../src/agent/client.ts";
import { dialAgent } from "../src/agent/connect.ts";
import { followHealth } from "../src/agent/health.ts";
import { type AgentSandboxRequest, findAgentSandbox, startAgentSandbox } from "../src/agent/sandbox.ts";
import { agentProcess, agentResources, agentSpec, wantsSandboxPids } from "../src/agent/spec.ts";
import { AGENT_PLACES, watchVolumes } from "../src/agent/storage.ts";
import { VmError } from "../src/errors.ts";
import { AgentDouble } from "./support/agent.ts";

const WAIT_MS = 60_000;

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "berth-agent-"));
  t.after(() => rmSync(directory, { recursive: true }));
  return directory;
}

async function doubleAt(t: TestContext, socket: string): Promise<AgentDouble> {
  const double = new AgentDouble();
  await double.server.listen(socket);
  t.after(() => double.close());
  return double;
}

/** A hypervisor's hybrid vsock, or berth's relay: `refusals` calls are turned away before somebody listens in the guest. */
async function vsock(t: TestContext, socket: string, double: AgentDouble, refusals: number, path?: string) {
  const said: string[] = [];
  let left = refusals;
  const server = createServer({ allowHalfOpen: true }, (caller: Socket) => {
    caller.on("error", () => caller.destroy());
    const lines = path === undefined ? 1 : 2;
    let seen = 0;
    caller.on("data", function take(chunk: Buffer) {
      said.push(String(chunk).trimEnd());
      if (left-- > 0) return void caller.destroy();
      caller.write(++seen === 1 ? "OK 1073741824\n" : "OK\n");
      if (seen < lines) return;
      caller.off("data", take);
      double.server.serve(caller);
    });
  });
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(socket, resolve);
  await promise;
  t.after(() => void server.close());
  return said;
}

test("an agent is reached at a socket of its own, by hybrid vsock, and through berth's channel", async (t) => {
  const directory = scratch(t);
  const own = join(directory, "agent.sock");
  const double = await doubleAt(t, own);
  const hybrid = join(directory, "hybrid.sock");
  const relay = join(directory, "relay.sock");
  const heard = await vsock(t, hybrid, double, 2);
  const through = await vsock(t, relay, double, 0, "/run/agent.sock");
  for (const address of [
    { socket: own },
    { socket: hybrid, port: 1024 },
    { socket: relay, port: 1024, path: "/run/agent.sock" },
  ]) {
    const client = await AgentClient.connect(address, { timeoutMs: WAIT_MS });
    await client.check();
    client.close();
  }
  assert.deepEqual(heard, ["CONNECT 1024", "CONNECT 1024", "CONNECT 1024"]);
  assert.deepEqual(through, ["CONNECT 1024", "PATH /run/agent.sock"]);
});

test("an agent that is not there is waited for, and not longer than it may take", async (t) => {
  const directory = scratch(t);
  const socket = join(directory, "late.sock");
  const dialled = dialAgent({ socket }, { timeoutMs: WAIT_MS });
  await doubleAt(t, socket);
  (await dialled).destroy();
  const none = dialAgent({ socket: join(directory, "none") }, { timeoutMs: 1 });
  await assert.rejects(
    none,
    (error) => error instanceof VmError && /did not answer at .*none: .*ENOENT/.test(error.message),
  );
  const reason = new Error("given up");
  const signal = AbortSignal.abort(reason);
  await assert.rejects(dialAgent({ socket }, { timeoutMs: WAIT_MS, signal }), reason);
});

test("a connection that ends is made again; one that is closed is not", async (t) => {
  const socket = join(scratch(t), "agent.sock");
  const first = await doubleAt(t, socket);
  const client = await AgentClient.connect({ socket }, { timeoutMs: WAIT_MS });
  await first.close();
  await doubleAt(t, socket);
  await client.check();
  client.close();
  await assert.rejects(client.check(), (error) => error instanceof AgentError && /was closed/.test(error.message));
});

const REQUEST: AgentSandboxRequest = {
  id: "pod",
  hostname: "a".repeat(70),
  shmSize: 1 << 26,
  sysctls: { "net.core.somaxconn": "1024" },
  interfaces: [
    {
      link: { index: 2, name: "eth0", mac: "02:00:00:00:00:01", mtu: 1450, isUp: true, type: 1, kind: "veth" },
      addresses: [
        { index: 2, address: "10.1.2.3", prefix: 24, scope: 0 },
        { index: 2, address: "fd00::3", prefix: 64, scope: 0 },
      ],
      routes: [
        { index: 2, gateway: "10.1.2.1", scope: 0, protocol: 3, family: 2 },
        { index: 2, destination: { address: "10.1.2.0", prefix: 24 }, scope: 253, protocol: 2, family: 2 },
        {
          index: 2,
          destination: { address: "fd01::", prefix: 48 },
          gateway: "fd00::1",
          scope: 0,
          protocol: 3,
          family: 10,
        },
      ],
      neighbours: [{ index: 2, address: "10.1.2.1", mac: "02:00:00:00:00:02" }],
      tap: "tap0",
    },
  ],
  hasShare: true,
  bosun: undefined,
  policy: "package agent_policy",
  kernelModules: ["fuse max_user_bgreq=8"],
  createMs: WAIT_MS,
};

test("a sandbox is started in Kata's order, and found again by a later daemon", async (t) => {
  const machine = scratch(t);
  mkdirSync(join(machine, "rw"));
  const socket = join(machine, "agent.sock");
  const double = await doubleAt(t, socket);
  const options = { timeoutMs: WAIT_MS, warn: assert.fail };
  const sandbox = await startAgentSandbox(machine, { socket }, REQUEST, options);
  assert.deepEqual(double.names(), [
    "SetPolicy",
    "UpdateInterface",
    "AddARPNeighbors",
    "UpdateRoutes",
    "CreateSandbox",
    "SetGuestDateTime",
    "ReseedRandomDev",
    "GetGuestDetails",
  ]);
  const { interface: asked } = double.last<agent.UpdateInterfaceRequest>("UpdateInterface");
  assert.deepEqual(
    [asked?.hwAddr, asked?.name, asked?.mtu, asked?.IPAddresses.map(({ address, mask }) => `${address}/${mask}`)],
    ["02:00:00:00:00:01", "eth0", 1450n, ["10.1.2.3/24", "fd00::3/64"]],
  );
  const { routes } = double.last<agent.UpdateRoutesRequest>("UpdateRoutes");
  // That which comes with the address is left to the kernel.
  assert.deepEqual(
    routes?.Routes.map(({ dest, gateway, device, family }) => [dest, gateway, device, family]),
    [
      ["", "10.1.2.1", "eth0", 0],
      ["fd01::/48", "fd00::1", "eth0", 1],
    ],
  );
  const made = double.last<agent.CreateSandboxRequest>("CreateSandbox");
  assert.equal(made.hostname.length, 64);
  assert.deepEqual(
    made.storages.map(({ driver, source, fstype, mountPoint, options: list }) => [
      driver,
      source,
      fstype,
      mountPoint,
      list,
    ]),
    [
      ["virtio-fs", "kataShared", "virtiofs", "/run/kata-containers/shared/containers/", []],
      [
        "ephemeral",
        "shm",
        "tmpfs",
        "/run/kata-containers/sandbox/shm",
        ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
      ],
    ],
  );
  assert.deepEqual(
    made.kernelModules.map(({ name, parameters }) => [name, parameters]),
    [["fuse", ["max_user_bgreq=8"]]],
  );
  sandbox.close();

  const again = await findAgentSandbox(machine, options);
  assert.deepEqual(again?.runtime.places, AGENT_PLACES);
  again?.close();
  assert.equal(await findAgentSandbox(scratch(t), options), undefined);
});

test("containers that share their PID namespace share that of the sandbox's first", async (t) => {
  const machine = scratch(t);
  const socket = join(machine, "agent.sock");
  const double = await doubleAt(t, socket);
  const bosun = join(machine, "bosun");
  writeFileSync(bosun, "#!/bin/sh\n");
  const options = { timeoutMs: WAIT_MS, warn: assert.fail };
  const sandbox = await startAgentSandbox(machine, { socket }, { ...REQUEST, bosun }, options);
  assert.deepEqual(double.names().slice(-3), ["GetGuestDetails", "CreateContainer", "StartContainer"]);
  const infra = double.last<agent.CreateContainerRequest>("CreateContainer");
  assert.deepEqual(
    [infra.containerId, infra.sandboxPidns, infra.OCI?.Root?.Path, infra.OCI?.Process?.Args],
    ["pod", true, "/run/kata-containers/shared/containers/pod/rootfs", ["/pause", "pause"]],
  );
  assert.equal(readFileSync(join(machine, "rw/pod/rootfs/pause"), "utf8"), "#!/bin/sh\n");
  assert.deepEqual(await sandbox.runtime.startInit(), { pid: 1 });
  const pid = { type: "pid", path: "/proc/1/ns/pid" } as const;
  const container = { id: "c", directory: machine, seccompCache: machine, terminal: false, stdin: false };
  const spec = { ...SPEC, linux: { namespaces: [pid, { type: "mount" } as const] } };
  await sandbox.runtime.create({ ...container, spec, warn: assert.fail });
  assert.equal(double.last<agent.CreateContainerRequest>("CreateContainer").sandboxPidns, true);
  sandbox.close();

  const without = await startAgentSandbox(machine, { socket }, REQUEST, options);
  await assert.rejects(without.runtime.startInit(), /Kata's agent has no PID 1 for it/);
  without.close();
});

test("a sandbox that the agent refuses is told in its words", async (t) => {
  const machine = scratch(t);
  const socket = join(machine, "agent.sock");
  const double = await doubleAt(t, socket);
  double.refusals.set("CreateSandbox", new TtrpcError(13, "no such module"));
  await assert.rejects(
    startAgentSandbox(machine, { socket }, REQUEST, { timeoutMs: WAIT_MS, warn: assert.fail }),
    /^AgentError|the guest's agent: CreateSandbox: no such module/,
  );
  double.serving = false;
  await assert.rejects(AgentClient.connect({ socket }, { timeoutMs: WAIT_MS }), /says that it does not serve/);
});

test("a policy is the agent's too, where it has policies", async (t) => {
  const machine = scratch(t);
  const socket = join(machine, "agent.sock");
  const double = await doubleAt(t, socket);
  const warnings: string[] = [];
  const options = { timeoutMs: WAIT_MS, warn: (message: string) => void warnings.push(message) };
  const sandbox = await startAgentSandbox(machine, { socket }, REQUEST, options);
  assert.equal(double.last<agent.SetPolicyRequest>("SetPolicy").policy, "package agent_policy");
  await sandbox.runtime.tools.setPolicy("package another");
  assert.equal(double.last<agent.SetPolicyRequest>("SetPolicy").policy, "package another");
  double.refusals.set("SetPolicy", new TtrpcError(7, "SetPolicyRequest is blocked by policy"));
  await assert.rejects(sandbox.runtime.tools.setPolicy("package third"), /SetPolicy: SetPolicyRequest is blocked/);
  sandbox.close();
  assert.deepEqual(warnings, []);

  double.refusals.set("SetPolicy", new TtrpcError(12, "not implemented"));
  const without = await startAgentSandbox(machine, { socket }, REQUEST, options);
  await without.runtime.tools.setPolicy("package fourth");
  without.close();
  assert.match(warnings.join(), /^the guest's agent has no policies of its own/);
});

test("an agent's health is asked again and again, until it is not well", async () => {
  let asked = 0;
  const check = async (): Promise<void> => {
    if (++asked === 3) throw new VmError("Guest", "it does not serve");
    await Promise.resolve();
  };
  assert.match(await followHealth({ check }, new AbortController().signal, 1), /it does not serve/);
  assert.equal(asked, 3);
});

const SPEC: oci.Spec = {
  ociVersion: "1.2.0",
  root: { path: "/run/rootfs", readonly: true },
  hostname: "pod",
  annotations: { a: "b" },
  mounts: [{ destination: "/data", type: "bind", source: "/run/data", options: ["rbind", "ro"] }],
  process: {
    user: { uid: 1000, gid: 1000, additionalGids: [5] },
    args: ["true"],
    env: ["A=b"],
    cwd: "/",
    capabilities: { bounding: ["CAP_CHOWN"], effective: ["CAP_CHOWN"] },
    rlimits: [{ type: "RLIMIT_NOFILE", soft: 1024, hard: 1n << 63n }],
    noNewPrivileges: true,
    oomScoreAdj: -5,
  },
  linux: {
    namespaces: [{ type: "pid" }, { type: "mount" }, { type: "network", path: "/run/netns/x" }, { type: "cgroup" }],
    devices: [{ path: "/dev/fuse", type: "c", major: 10, minor: 229 }],
    resources: {
      devices: [{ allow: false, access: "rwm" }],
      memory: { limit: 1 << 26, swap: -1 },
      cpu: { shares: 1024, quota: 50_000, period: 100_000, cpus: "0-3", mems: "0" },
      pids: { limit: 100 },
      hugepageLimits: [{ pageSize: "2MB", limit: 0 }],
    },
    maskedPaths: ["/proc/kcore"],
    readonlyPaths: ["/proc/sys"],
    seccomp: {
      defaultAction: "SCMP_ACT_ERRNO",
      architectures: ["SCMP_ARCH_X86_64"],
      syscalls: [
        { names: ["clone"], action: "SCMP_ACT_ALLOW", args: [{ index: 0, value: 1n << 40n, op: "SCMP_CMP_EQ" }] },
        { names: ["ptrace"], action: "SCMP_ACT_ERRNO", errnoRet: 38 },
      ],
    },
  },
};
const OPTIONS = { cgroup: "/berth/c", seccomp: true };

test("a config is translated as kata-runtime does it", () => {
  const { Process, Root, Mounts, Linux } = agentSpec(SPEC, OPTIONS);
  assert.deepEqual(Root, { Path: "/run/rootfs", Readonly: true });
  assert.deepEqual(Mounts, [{ destination: "/data", source: "/run/data", type: "bind", options: ["rbind", "ro"] }]);
  assert.deepEqual(Process?.User, { UID: 1000, GID: 1000, AdditionalGids: [5] });
  assert.deepEqual(Process?.Rlimits, [{ Type: "RLIMIT_NOFILE", Soft: 1024n, Hard: 1n << 63n }]);
  assert.equal(Process?.OOMScoreAdj, -5n);
  // Namespaces: the network's is the machine's, the PID's is the agent's to make, and none is joined by a path of the host's.
  assert.deepEqual(Linux?.Namespaces, [
    { Type: "mount", Path: "" },
    { Type: "ipc", Path: "" },
    { Type: "uts", Path: "" },
  ]);
  assert.equal(Linux?.CgroupsPath, "/berth/c");
  assert.deepEqual(Linux?.Resources?.Memory?.Swap, -1n);
  assert.deepEqual(Linux?.Resources?.CPU, {
    Shares: 1024n,
    Quota: 50_000n,
    Period: 100_000n,
    RealtimeRuntime: 0n,
    RealtimePeriod: 0n,
  });
  // Devices, processes and block I/O are limited by the machine's own cgroup.
  assert.deepEqual(Object.keys(Linux?.Resources ?? {}).toSorted(), ["CPU", "HugepageLimits", "Memory"]);
  assert.deepEqual(Linux?.Seccomp?.Syscalls?.[1]?.ErrnoRet, { case: "errnoret", value: 38 });
  assert.equal(Linux?.Devices?.[0]?.FileMode, 0o666);
});

test("what the agent has no word for is refused by name", () => {
  const process = SPEC.process as oci.Process;
  const linux = SPEC.linux ?? {};
  const seccomp = linux.seccomp as oci.LinuxSeccomp;
  const refused: readonly [() => unknown, RegExp][] = [
    [() => agentSpec({ ...SPEC, hooks: {} }, OPTIONS), /^hooks: not with Kata's agent/],
    [() => agentSpec({ ...SPEC, linux: { ...linux, uidMappings: [] } }, OPTIONS), /^linux\.uidMappings: /],
    [
      () => agentSpec({ ...SPEC, linux: { ...linux, personality: { domain: "LINUX32" } } }, OPTIONS),
      /^linux\.personality/,
    ],
    [() => agentSpec(SPEC, { ...OPTIONS, seccomp: false }), /^linux\.seccomp: .*disable_guest_seccomp = true/],
    [
      () => agentSpec({ ...SPEC, linux: { ...linux, seccomp: { ...seccomp, defaultErrnoRet: 38 } } }, OPTIONS),
      /^linux\.seccomp\.defaultErrnoRet: /,
    ],
    [() => agentProcess({ ...process, user: { uid: 0, gid: 0, umask: 0o77 } }), /^process\.user\.umask: /],
    [() => agentResources({ unified: { "memory.high": "1" } }), /^linux\.resources\.unified: /],
    [() => wantsSandboxPids({ ...SPEC, linux: { namespaces: [] } }), /^linux\.namespaces: .*none can have the guest's/],
  ];
  for (const [work, words] of refused)
    assert.throws(
      work,
      (error) => error instanceof VmError && error.code === "Unsupported" && words.test(error.message),
    );
  assert.equal(wantsSandboxPids(SPEC), false);
  assert.equal(wantsSandboxPids({ ...SPEC, linux: { namespaces: [{ type: "pid", path: "/proc/7/ns/pid" }] } }), true);
});

test("volumes that the kubelet changes are watched, where they are small", async (t) => {
  const shared = scratch(t);
  const volume = (name: string, bytes: number, linked: boolean): oci.Mount => {
    const directory = join(shared, "mounts", name);
    mkdirSync(join(directory, "..2026"), { recursive: true });
    writeFileSync(join(directory, "..2026/key"), Buffer.alloc(bytes));
    if (linked) symlinkSync("..2026", join(directory, "..data"));
    return {
      destination: `/${name}`,
      type: "bind",
      source: `${AGENT_PLACES.share}/c/mounts/${name}`,
      options: ["rbind"],
    };
  };
  const mounts = [volume("config", 10, true), volume("plain", 10, false), volume("large", (1 << 20) + 1, true)];
  const { mounts: changed, storages } = await watchVolumes(mounts, "c", shared);
  assert.deepEqual(
    changed.map(({ source }) => source),
    [`${AGENT_PLACES.share}/watchable/c-config`, mounts[1]?.source, mounts[2]?.source],
  );
  assert.deepEqual(storages, [
    {
      driver: "watchable-bind",
      source: mounts[0]?.source,
      fstype: "bind",
      mountPoint: `${AGENT_PLACES.share}/watchable/c-config`,
      options: [],
    },
  ]);
  assert.equal(readFileSync(join(shared, "mounts/config/..data/key")).length, 10);
});
