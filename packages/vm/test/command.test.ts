/** The berth-vm command, as far as it needs no machine. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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

test("a direct volume that nobody has, and what is none", async () => {
  const path = ["--volume-path", join(dir, "volume")];
  for (const [words, ...argv] of [
    [/mount info: device: give the absolute path/, "add", "--mount-info", "{}"],
    [/mount info: volume-type "spdkvol": a machine takes block devices alone/, "add", "--mount-info", SPDK],
    [/volume: ENOENT: no such file or directory/, "stats"],
    [/invalid value "1G" for flag -size/, "resize", "--size", "1G"],
    [/volume: ENOENT/, "resize", "--size", "4096"],
  ] as const) {
    const { status, stderr } = await said("direct-volume", ...argv, ...path);
    assert.equal(status, 1);
    assert.match(stderr, words);
  }
  assert.deepEqual(await said("direct-volume", "remove", ...path), { status: 0, stdout: "", stderr: "" });
  assert.equal((await said("no-such-command")).status, 1);
});

const SPDK = '{"volume-type":"spdkvol","device":"/dev/sdx","fstype":"ext4"}';

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

test("what is asked of a machine names a pod whose machine runs", async () => {
  const id = "0".repeat(64);
  for (const argv of [
    ["metrics"],
    ["exec"],
    ["policy", "set", "file", "--sandbox-id"],
    ["iptables", "get", "--sandbox-id"],
    ["iptables", "set", "file", "--v6", "--sandbox-id"],
  ]) {
    const { status, stderr } = await said("--state", dir, ...argv, id);
    assert.equal(status, 1);
    assert.match(stderr, /^berth-vm: no virtual machine runs for pod 0{64}/);
    assert.match((await said("--state", dir, ...argv, "../x")).stderr, /invalid container\/sandbox ID "\.\.\/x"/);
  }
  assert.match((await said("metrics")).stderr, /invalid container\/sandbox ID: it is missing/);
  assert.match((await said("policy", "set", "file")).stderr, /required option '--sandbox-id <id>' not specified/);
  assert.match((await said("exec", "--kata-debug-port", "x", id)).stderr, /--kata-debug-port: "x" is no number/);
});

test("version, by the command and by the option; options of kata-runtime's for all commands", async () => {
  const version = await said("version");
  assert.match(version.stdout, /^berth-vm {2}: \d+\.\d+\.\d+\n {3}commit {3}: .*\n {3}OCI specs: 1\.\d+\.\d+\n$/);
  assert.deepEqual(await said("--version"), version);
  assert.deepEqual(await said("--rootless", "auto", "--root", dir, "--systemd-cgroup", "version"), version);
  assert.match((await said("--rootless", "perhaps", "version")).stderr, /--rootless: "perhaps" is none of/);
  assert.equal((await said("--log-format", "xml", "version")).status, 1);
  const log = join(dir, "log");
  for (const format of ["text", "json"]) await said("--log", log, "--log-format", format, "metrics", "absent");
  const [text = "", json = ""] = readFileSync(log, "utf8").split("\n");
  assert.match(text, /^time="\S+" level=error msg="no virtual machine runs for pod absent/);
  assert.match((JSON.parse(json) as { msg: string }).msg, /^no virtual machine runs for pod absent/);
});

test("check asks no network for releases", async () => {
  for (const option of ["--check-version-only", "--only-list-releases"]) {
    assert.match((await said("check", option)).stderr, /releases of berth are its package manager's to list/);
    assert.deepEqual(await said("check", option, "--no-network-checks"), { status: 0, stdout: "", stderr: "" });
  }
});

test("monitor ends when it is told to", async () => {
  const stop = new AbortController();
  let stderr = "";
  const io = {
    stdout: { write: () => {} },
    stderr: {
      write: (text: string) => {
        stderr += text;
        stop.abort();
      },
    },
    env: {},
    stop: stop.signal,
  };
  assert.equal(await berthVm(["--state", dir, "monitor", "--listen-address", "127.0.0.1:0"], io), 0);
  assert.match(stderr, /level=info msg="listening on 127\.0\.0\.1:\d+"/);
});
