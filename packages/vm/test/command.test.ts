/** The berth-vm command, as far as it needs no machine. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { berthVm } from "../src/commands/program.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-vm-command-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

async function said(...argv: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  let [stdout, stderr] = ["", ""];
  const io = {
    stdout: { write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (stderr += text) },
    env: {},
  };
  const status = await berthVm(argv, io);
  return { status, stdout, stderr };
}

test("the default configuration files, by kata-runtime's option and by its own", async () => {
  const paths = "/etc/kata-containers/configuration.toml\n/usr/share/defaults/kata-containers/configuration.toml\n";
  for (const option of ["--kata-show-default-config-paths", "--show-default-config-paths"])
    assert.deepEqual(await said(option), { status: 0, stdout: paths, stderr: "" });
});

test("what of kata-runtime is not there is refused by name", async () => {
  for (const [name, ...rest] of [
    ["exec", "pod"],
    ["direct-volume", "add"],
    ["iptables", "get"],
    ["policy", "set"],
  ]) {
    const { status, stderr } = await said(name ?? "", ...rest);
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`^berth-vm: ${name}: `));
  }
  assert.equal((await said("no-such-command")).status, 1);
});

test("check names everything that is missing, and what to do", async () => {
  const config = join(dir, "configuration.toml");
  writeFileSync(config, `[hypervisor.qemu]\npath = "${dir}/qemu"\nvirtio_fs_daemon = "${dir}/virtiofsd"\n`);
  const { status, stderr } = await said("--config", config, "--image", join(dir, "image"), "check");
  assert.equal(status, 1);
  for (const words of [
    /path: .*\/qemu is not there/,
    /virtio_fs_daemon: .*\/virtiofsd is not there/,
    /no guest image; make one by berth-vm build-image/,
  ])
    assert.match(stderr, words);
});

test("metrics of a machine that does not run", async () => {
  const { status, stderr } = await said("--state", dir, "metrics", "0".repeat(64));
  assert.equal(status, 1);
  assert.match(stderr, /no virtual machine runs for pod 0{64}/);
});
