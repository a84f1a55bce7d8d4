/** Which agent a guest has, and what its machine has for it. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { guestFilesOf, settingsOf } from "../src/index.ts";
import { machineShape } from "../src/hypervisor/choose.ts";
import { hypervisorOf } from "../src/hypervisor/drivers.ts";
import type { GuestAgent, Machine } from "../src/hypervisor/machine.ts";

let dir = "";
const own = (): string => join(dir, "own");
const carried = (): string => join(dir, "carried");
const katas = (): string => join(dir, "katas");
before(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-guests-"));
  for (const [directory, description] of [
    [own(), { kernel: "vmlinuz", initrd: "initrd", absent: [] }],
    [carried(), { kernel: "vmlinuz", initrd: "initrd", absent: [], agent: "kata" }],
    [katas(), undefined],
  ] as const) {
    mkdirSync(directory);
    for (const name of ["vmlinuz", "initrd", "image", "vmm"]) writeFileSync(join(directory, name), name);
    if (description) writeFileSync(join(directory, "image.json"), JSON.stringify(description));
  }
});
after(() => rmSync(dir, { recursive: true }));

const settingsFor = (name: string, more: Record<string, unknown> = {}, agent: Record<string, unknown> = {}) =>
  settingsOf({
    hypervisor: { [name]: { path: join(katas(), "vmm"), kernel: join(katas(), "vmlinuz"), ...more } },
    agent: { kata: agent },
  });

const agentOf = async (...settings: Parameters<typeof settingsFor>): Promise<GuestAgent | undefined> =>
  (await guestFilesOf({ image: own() }, settingsFor(...settings))).agent;

test("an image with berth's description beside it has the agent that this names; any other has Kata's", async () => {
  assert.equal(await agentOf("qemu"), undefined);
  assert.equal(await agentOf("qemu", { initrd: join(own(), "initrd") }), undefined);
  assert.equal(await agentOf("qemu", { initrd: join(carried(), "initrd") }), "kata-carried");
  assert.equal(await agentOf("clh", { initrd: join(carried(), "initrd") }), "kata");
  assert.equal(await agentOf("clh", { image: join(katas(), "image") }), "kata");
  const byHost = agentOf("qemu", { initrd: join(katas(), "initrd") });
  if (existsSync("/dev/vhost-vsock")) assert.equal(await byHost, "kata");
  else
    await assert.rejects(byHost, /^VmError: \/dev\/vhost-vsock is not there, by which Kata's agent in .*katas\/initrd/);
  await assert.rejects(
    agentOf("qemu", {}, { kernel_modules: ["fuse"] }),
    /kernel_modules: berth's own guest loads what .*own\/image\.json lists/,
  );
});

function commandLine(agent: GuestAgent | undefined, more: Record<string, unknown> = {}): string {
  const settings = settingsFor("qemu", {}, more);
  const files = { kernel: join(katas(), "vmlinuz"), initrd: join(katas(), "initrd"), image: undefined, agent };
  const machine: Machine = {
    ...machineShape(settings, files),
    id: "pod",
    directory: "/run/vm/pod",
    shares: [],
    nics: [],
    disks: [],
    devices: [],
  };
  const hypervisor = hypervisorOf(settings, "tcg");
  return [...hypervisor.program(machine).argv, JSON.stringify(hypervisor.channel(machine))].join(" ");
}

test("QEMU's machine has vsock for Kata's agent, or its own channel carries the agent's socket", () => {
  const vsock = commandLine("kata");
  const [, id] = /-device vhost-vsock-pci,id=vsock0,guest-cid=(\d+)/.exec(vsock) ?? [];
  assert.ok(vsock.endsWith(`{"by":"relay","channel":"vsock:${id}:1024"}`), vsock);
  assert.doesNotMatch(vsock, /berth\.guest|agent\.server_addr/);
  const own = commandLine("kata-carried");
  assert.match(
    own,
    / berth\.guest berth\.agent=\/usr\/bin\/kata-agent agent\.server_addr=unix:\/\/\/run\/berth-agent\.sock/,
  );
  assert.match(own, /"channel":"\/run\/vm\/pod\/channel\.sock"/);
  assert.doesNotMatch(commandLine(undefined), /vsock|systemd|agent\.server/);
});

test("an agent's own keys are parameters of its kernel", () => {
  const parameters = commandLine("kata", { container_pipe_size: 65_536, enable_debug: true });
  assert.match(parameters, / agent\.log=debug agent\.container_pipe_size=65536/);
  assert.match(parameters, /systemd\.unit=kata-containers\.target systemd\.mask=systemd-networkd\.service/);
});
