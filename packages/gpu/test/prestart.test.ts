/** nvidia-container-runtime-hook: what it has nvidia-container-cli do, and what berth does where that is not installed. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  readdirSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { devicesCgroup } from "../src/prestart/inject.ts";
import { makeDriverRoot } from "../src/testing/driver-root.ts";

const HOOK = new URL("../../../bin/nvidia-container-runtime-hook", import.meta.url).pathname;
const HAS_RUNC = spawnSync("runc", ["--version"]).status === 0;
const ROOT = process.getuid?.() === 0 ? false : "needs root, for device nodes and mounts";

const SCRIPT = `busybox ls -l /dev/nvidia0 /dev/nvidia1 /dev/nvidiactl; busybox readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1
busybox ls /usr/bin; (exec 3</dev/nvidiactl); exit 0`;

test("the cgroup that decides on devices", () => {
  assert.equal(devicesCgroup("5:devices:/a\n1:cpu,cpuacct:/b\n0::/c\n"), "/a");
  assert.equal(devicesCgroup("1:name=systemd:/b\n0::/c/d:e\n"), "/c/d:e");
  assert.throws(() => devicesCgroup("0::/\n"), /no device cgroup of its own/);
});

describe("nvidia-container-runtime-hook", { skip: ROOT }, () => {
  let dir = "";
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "berth-prestart-"));
    makeDriverRoot(join(dir, "root"));
    writeFileSync(join(dir, "nvml.txt"), "gpu GPU-1 0 00000000:01:00.0 0 A100\ngpu GPU-2 1 00000000:02:00.0 0 A100\n");
    writeFileSync(join(dir, "cli"), '#!/bin/sh\nprintf "%s\\n" "$@" >"$DIR/args"\necho "$MORE" >"$DIR/env"\nexit 5\n');
    chmodSync(join(dir, "cli"), 0o755);
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  const bundle = (env: readonly string[], privileged = false): string => {
    const at = join(dir, "bundle");
    mkdirSync(at, { recursive: true });
    const capabilities = { bounding: privileged ? ["CAP_SYS_ADMIN"] : [] };
    const process = { cwd: "/", args: ["sh"], env, capabilities };
    writeFileSync(join(at, "config.json"), JSON.stringify({ ociVersion: "1.0.2", process, root: { path: "rootfs" } }));
    return at;
  };
  const environment = (toml: string) => {
    writeFileSync(join(dir, "config.toml"), toml);
    const { PATH } = process.env;
    return { PATH, DIR: dir, NVIDIA_CTK_CONFIG_FILE_PATH: join(dir, "config.toml"), FAKE_NVML: join(dir, "nvml.txt") };
  };
  const run = (args: readonly string[], state: unknown, toml: string) =>
    spawnSync(HOOK, args, { input: JSON.stringify(state), encoding: "utf8", env: environment(toml) });
  const asked = (env: readonly string[], cli = "", top = "", privileged = false): string[] => {
    const at = bundle(env, privileged);
    const toml = `${top}\n[nvidia-container-cli]\npath = "${dir}/cli"\nldconfig = "@/x/ldconfig"\n${cli}`;
    const { status, stderr } = run(["prestart"], { pid: 7, bundle: at }, toml);
    assert.equal(status, 5, stderr);
    return readFileSync(join(dir, "args"), "utf8").split("\n").slice(0, -1);
  };

  test("nvidia-container-cli's arguments", () => {
    const rootfs = join(dir, "bundle/rootfs");
    assert.deepEqual(asked(["NVIDIA_VISIBLE_DEVICES=0,1"]), [
      "--load-kmods",
      "configure",
      "--cuda-compat-mode=ldconfig",
      "--ldconfig=@/x/ldconfig",
      "--device=0,1",
      "--compute",
      "--utility",
      "--pid=7",
      rootfs,
    ]);
    const full = asked(
      [
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=all",
        "NVIDIA_MIG_CONFIG_DEVICES=all",
        "NVIDIA_IMEX_CHANNELS=0",
        "NVIDIA_REQUIRE_CUDA=cuda>=11",
      ],
      'root = "/r"\nload-kmods = false\nno-cgroups = true\nuser = "root:video"\ndebug = "/d"\nldcache = "/l"\nenvironment = ["MORE=1=2"]',
      'supported-driver-capabilities = "compute,utility,video"',
      true,
    );
    assert.deepEqual(full, [
      "--root=/r",
      "--debug=/d",
      "--ldcache=/l",
      "--user=root:video",
      "configure",
      "--cuda-compat-mode=ldconfig",
      "--ldconfig=@/x/ldconfig",
      "--no-cgroups",
      "--device=all",
      "--mig-config=all",
      "--imex-channel=0",
      "--compute",
      "--utility",
      "--video",
      "--require=cuda>=11",
      "--pid=7",
      rootfs,
    ]);
    assert.equal(readFileSync(join(dir, "env"), "utf8"), "1=2\n");
    const legacy = asked(["CUDA_VERSION=10.2.89"]);
    assert.ok(legacy.includes("--require=cuda>=10.2") && legacy.includes("--ngx") && legacy.includes("--device=all"));
  });

  test("other stages, other modes, and what is wrong", () => {
    const state = { pid: 7, bundle: bundle(["NVIDIA_VISIBLE_DEVICES=0"]) };
    assert.equal(run(["poststop"], state, "").status, 0);
    assert.match(run(["-version"], state, "").stdout, /^NVIDIA Container Runtime Hook version/);
    for (const args of [[], ["other"], ["--x", "prestart"]]) assert.equal(run(args, state, "").status, 2);
    const cli = `[nvidia-container-cli]\npath = "${dir}/cli"\n`;
    const fails = (env: readonly string[], message: RegExp, toml = cli): void => {
      const { status, stderr } = run(["prestart"], { pid: 7, bundle: bundle(env) }, toml);
      assert.equal(status, 1);
      assert.match(stderr, message);
    };
    const one = "NVIDIA_VISIBLE_DEVICES=0";
    fails(
      [one],
      /invoking the NVIDIA Container Runtime Hook directly/,
      `${cli}[nvidia-container-runtime]\nmode = "cdi"\n`,
    );
    fails([one, "NVIDIA_DRIVER_CAPABILITIES=compute,x"], /unsupported capabilities x \(allowed: /);
    fails([one, "NVIDIA_MIG_MONITOR_DEVICES=all"], /cannot set NVIDIA_MIG_MONITOR_DEVICES in a container that is not/);
    fails([one], /supported-driver-capabilities: "x" is none of/, `supported-driver-capabilities = "x"\n${cli}`);
    const skip = `${cli}[nvidia-container-runtime]\nmode = "cdi"\n[nvidia-container-runtime-hook]\nskip-mode-detection = true\n`;
    assert.equal(run(["prestart"], state, skip).status, 5);
    assert.equal(run(["prestart"], { pid: 7, bundle: bundle([]) }, cli).status, 0, "no GPU is asked for");
    assert.match(run(["prestart"], {}, cli).stderr, /could not decode container state/);
    assert.match(run(["-config", "/no/file", "prestart"], state, cli).stderr, /\/no\/file is not there/);
  });

  /** A container of runc's with berth's hook, in mounts of its own, where the kernel knows the driver. */
  const inContainer = (
    name: string,
    script: string,
    env: readonly string[],
    toml: string,
    prepare?: (rootfs: string) => void,
  ) => {
    const at = join(dir, name);
    const rootfs = join(at, "rootfs");
    for (const folder of ["bin", "proc", "dev", "sys", "etc", "usr/lib"])
      mkdirSync(join(rootfs, folder), { recursive: true });
    const { status: copied } = spawnSync("cp", ["/bin/busybox", join(rootfs, "bin/busybox")]);
    assert.equal(copied, 0);
    prepare?.(rootfs);
    spawnSync("runc", ["spec"], { cwd: at });
    const spec = JSON.parse(readFileSync(join(at, "config.json"), "utf8"));
    spec.process.terminal = false;
    spec.process.args = ["/bin/busybox", "sh", "-c", script];
    spec.process.env = ["PATH=/bin", ...env];
    spec.process.capabilities.bounding.push("CAP_SYS_ADMIN");
    const own = Object.entries(environment(toml)).map(([key, value]) => `${key}=${value}`);
    spec.hooks = { prestart: [{ path: HOOK, args: ["nvidia-container-runtime-hook", "prestart"], env: own }] };
    writeFileSync(join(at, "config.json"), JSON.stringify(spec));
    writeFileSync(
      join(dir, "devices"),
      "Character devices:\n195 nvidia\n236 nvidia-caps\n237 nvidia-caps-imex-channels\n508 nvidia-uvm\n",
    );
    const runc = `exec runc --root ${dir}/runc run berth-prestart-${name}`;
    const prepared = `mount -t tmpfs none /proc/driver && mkdir /proc/driver/nvidia-caps &&
printf 'config 3\\nmonitor 4\\n' >/proc/driver/nvidia-caps/mig-minors && mount --bind ${dir}/devices /proc/devices && ${runc}`;
    const result = spawnSync("unshare", ["-m", "sh", "-c", prepared], { cwd: at, encoding: "utf8" });
    assert.deepEqual(readdirSync(join(dir, "runc")), []);
    return result;
  };

  const runc = HAS_RUNC ? false : "runc is not installed";
  test("without nvidia-container-cli: files, nodes, rules and links in a container of runc's", { skip: runc }, () => {
    const toml = `[nvidia-container-cli]\nroot = "${dir}/root"\n`;
    const { status, stdout, stderr } = inContainer("real", SCRIPT, ["NVIDIA_VISIBLE_DEVICES=1"], toml, (rootfs) => {
      // Where the driver's libraries belong, the image has a link out of itself.
      symlinkSync(`/../../../../..${dir}/escape`, join(rootfs, "usr/lib/x86_64-linux-gnu"));
      mkdirSync(join(dir, "escape"));
    });
    assert.equal(status, 0, stderr);
    assert.match(stdout, /195, +5 .*\/dev\/nvidia1\n.*195, +0 .*\/dev\/nvidiactl\n/);
    assert.match(stderr, /\/dev\/nvidia0: No such file/);
    assert.match(stdout, /\n\/.*\/escape\/libcuda\.so\.525\.147\.05\n/, "below the container's own root");
    assert.match(stdout, /\nnvidia-smi\n/);
    // The rules allow it; there is no such driver.
    assert.match(stderr, /can't open \/dev\/nvidiactl: No such device or address/);
    assert.deepEqual(readdirSync(join(dir, "escape")), [], "nothing outside");
  });

  test(
    "without nvidia-container-cli: what capabilities bring, channels of IMEX, and who may divide GPUs",
    { skip: runc },
    () => {
      const lib = "usr/lib/i386-linux-gnu";
      mkdirSync(join(dir, "root", lib), { recursive: true });
      // The head of a library for 32-bit programs, and something else of such a name.
      writeFileSync(join(dir, "root", lib, "libcuda.so.525.147.05"), "\x7fELF\x01\x01\x01".padEnd(64, "\0"));
      writeFileSync(join(dir, "root", lib, "libnvidia-ml.so.525.147.05"), "text");
      const script = `cd /usr/lib; busybox ls -d */*cuda.so.5* */*-ml.so.5* */*opticalflow.so.5* */*glcore.so.5*; busybox ls /usr/bin
busybox stat -c '%n %t:%T' /dev/nvidia-caps*/*; (exec 3</dev/nvidia-caps/nvidia-cap3); exit 0`;
      const asked = (capabilities: string, ...more: string[]) =>
        inContainer(
          "parts",
          script,
          ["NVIDIA_VISIBLE_DEVICES=0", `NVIDIA_DRIVER_CAPABILITIES=${capabilities}`, ...more],
          `[nvidia-container-cli]\nroot = "${dir}/root"\n`,
        );
      const full = asked("compute,compat32", "NVIDIA_IMEX_CHANNELS=0,5", "NVIDIA_MIG_CONFIG_DEVICES=all");
      assert.equal(full.status, 0, full.stderr);
      assert.deepEqual(full.stdout.split("\n"), [
        "i386-linux-gnu/libcuda.so.525.147.05",
        "x86_64-linux-gnu/libcuda.so.525.147.05",
        "nvidia-cuda-mps-control",
        "/dev/nvidia-caps-imex-channels/channel0 ed:0",
        "/dev/nvidia-caps-imex-channels/channel5 ed:5",
        "/dev/nvidia-caps/nvidia-cap3 ec:3",
        "",
      ]);
      assert.match(full.stderr, /can't open \/dev\/nvidia-caps\/nvidia-cap3: No such device or address/);
      rmSync(join(dir, "parts"), { recursive: true });
      const utility = asked("utility,video");
      assert.deepEqual(utility.stdout.trimEnd().split("\n"), [
        "x86_64-linux-gnu/libnvidia-ml.so.525.147.05",
        "x86_64-linux-gnu/libnvidia-opticalflow.so.525.147.05",
        "nvidia-debugdump",
        "nvidia-smi",
      ]);
      rmSync(join(dir, "parts"), { recursive: true });
      const toml = `[nvidia-container-cli]\nroot = "${dir}/root"\n[features]\ndisable-imex-channel-creation = true\n`;
      const refused = inContainer("refused", "true", ["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_IMEX_CHANNELS=7"], toml);
      assert.notEqual(refused.status, 0);
      assert.match(refused.stderr, /no IMEX channel 7: .*channel7 is not there/);
      const nothing = join(dir, "nothing");
      mkdirSync(join(nothing, "dev"), { recursive: true });
      const absent = inContainer(
        "absent",
        "true",
        ["NVIDIA_VISIBLE_DEVICES=0"],
        `[nvidia-container-cli]\nroot = "${nothing}"\n`,
      );
      assert.notEqual(absent.status, 0);
      assert.match(absent.stderr, /nvidia-container-cli\.load-kmods: chroot .*\/nothing \/sbin\/modprobe nvidia: /);
    },
  );
});
