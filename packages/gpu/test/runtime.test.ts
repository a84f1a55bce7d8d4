/** berth-nvidia-runtime, with a low-level runtime that keeps what it is given, on a driver root and an NVML that are made up. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { oci } from "@berth/spec";
import { makeDriverRoot, makeNode } from "../src/testing/driver-root.ts";

const RUNTIME = new URL("../../../bin/berth-nvidia-runtime", import.meta.url).pathname;
const UUID = "GPU-66666666-2222-3333-4444-555555555555";
const GPUS = `driver 525.147.05
gpu GPU-11111111-2222-3333-4444-555555555555 0 00000000:01:00.0 0 NVIDIA A100
gpu ${UUID} 1 00000000:02:00.0 0 NVIDIA A100
`;
const HOOK = "/usr/bin/nvidia-cdi-hook";
const PRESTART = "/usr/bin/nvidia-container-runtime-hook";
const LIMIT = "9223372036854771712";

interface Ask {
  readonly env?: readonly string[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly mounts?: readonly oci.Mount[];
  readonly privileged?: boolean;
  readonly prestart?: readonly oci.Hook[];
}

describe("berth-nvidia-runtime", { skip: process.getuid?.() === 0 ? false : "needs root, for device nodes" }, () => {
  let dir = "";
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "berth-nvidia-"));
    makeDriverRoot(join(dir, "root"));
    for (const [index, name] of ["nvidia-fs0", "nvidia-caps-imex-channels/channel1"].entries())
      makeNode(join(dir, "root"), name, "666", 300 + index, 1);
    writeFileSync(join(dir, "nvml.txt"), GPUS);
    mkdirSync(join(dir, "cdi"));
    const spec = { cdiVersion: "0.5.0", kind: "acme.com/gpu" };
    const devices = ["a", "none"].map((name) => ({ name, containerEdits: { env: [`ACME=${name}`] } }));
    writeFileSync(join(dir, "cdi/acme.json"), JSON.stringify({ ...spec, devices }));
    // What stands for runc: its arguments, and the configuration that it would see.
    writeFileSync(
      join(dir, "low"),
      '#!/bin/sh\nprintf "%s\\n" "$0" "$@" >"$DIR/args"\ncat config.json 2>/dev/null\nexit 7\n',
    );
    chmodSync(join(dir, "low"), 0o755);
    mkdirSync(join(dir, "bundle"));
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  const toml = (own: string, top: string): string => `${top}
[nvidia-container-cli]
root = "${dir}/root"
[nvidia-ctk]
path = "${HOOK}"
[nvidia-container-runtime-hook]
path = "${PRESTART}"
[nvidia-container-runtime]
runtimes = ["/no/such/runtime", "${dir}/low"] # in this order
${own}
[nvidia-container-runtime.modes.cdi]
spec-dirs = ["${dir}/cdi"]
default-kind = "acme.com/gpu"
annotation-prefixes = ["cdi.k8s.io/"]
`;
  const run = (args: readonly string[], own = "", top = "", program = RUNTIME) => {
    writeFileSync(join(dir, "config.toml"), toml(own, top));
    return spawnSync(program, args, {
      cwd: join(dir, "bundle"),
      encoding: "utf8",
      env: {
        PATH: process.env["PATH"],
        DIR: dir,
        NVIDIA_CTK_CONFIG_FILE_PATH: join(dir, "config.toml"),
        FAKE_NVML: join(dir, "nvml.txt"),
      },
    });
  };
  const put = ({ env = [], annotations, mounts = [], privileged = false, prestart }: Ask): void => {
    const spec = {
      ociVersion: "1.0.2",
      process: {
        cwd: "/",
        args: ["sh"],
        user: { uid: 0, gid: 0 },
        env: ["PATH=/bin", ...env],
        capabilities: { bounding: privileged ? ["CAP_SYS_ADMIN"] : [] },
      },
      root: { path: "rootfs" },
      mounts: [{ destination: "/proc", type: "proc", source: "proc" }, ...mounts],
      ...(annotations && { annotations }),
      ...(prestart && { hooks: { prestart } }),
      linux: { resources: { memory: { limit: 1 } } },
    };
    writeFileSync(join(dir, "bundle/config.json"), JSON.stringify(spec).replace('"limit":1', `"limit":${LIMIT}`), {
      mode: 0o640,
    });
  };
  const created = (ask: Ask, own = "", top = ""): oci.Spec => {
    put(ask);
    const { status, stdout, stderr } = run(["--log", join(dir, "log"), "create", "--bundle", ".", "x"], own, top);
    assert.equal(status, 7, stderr);
    assert.equal(stderr, "");
    assert.ok(stdout.includes(`"limit":${LIMIT}`), "a limit that no double can hold");
    return JSON.parse(stdout) as oci.Spec;
  };
  const fails = (ask: Ask, message: RegExp, own = "", top = ""): void => {
    put(ask);
    const before = readFileSync(join(dir, "bundle/config.json"), "utf8");
    const { status, stderr, stdout } = run(["create", "x"], own, top);
    assert.deepEqual([status, stdout], [1, ""]);
    assert.match(stderr, message);
    assert.match(stderr, /^time="\d{4}-.*Z" level=error msg="/);
    assert.equal(readFileSync(join(dir, "bundle/config.json"), "utf8"), before, "nothing is half done");
  };
  const nodes = (spec: oci.Spec): string[] => (spec.linux?.devices ?? []).map(({ path }) => path);
  const gpus = (spec: oci.Spec): string[] => nodes(spec).filter((path) => /\/nvidia\d+$/.test(path));
  const asks = (value: string): Ask => ({ env: [`NVIDIA_VISIBLE_DEVICES=${value}`] });
  const valueOf = (spec: oci.Spec, name: string): string | undefined =>
    spec.process?.env?.findLast((entry) => entry.startsWith(`${name}=`));
  const hookNames = (spec: oci.Spec) => spec.hooks?.createContainer?.map(({ args = [] }) => args[1]);

  test("every command but create reaches the low-level runtime as it is", () => {
    for (const args of [
      ["--root", "/x", "start", "id"],
      ["--bundle", "create", "state", "id"],
      ["-b", "create", "delete", "--force", "id"],
      [],
    ]) {
      const { status, stderr } = run(args);
      assert.equal(status, 7, stderr);
      assert.deepEqual(readFileSync(join(dir, "args"), "utf8").split("\n").slice(0, -1), [`${dir}/low`, ...args]);
    }
    const { stdout } = run(["--version"]);
    assert.match(stdout, /^NVIDIA Container Runtime version berth .*\nspec: 1\.3\.0\n\n/);
  });

  test("under nvidia-container-runtime.cdi's and .legacy's names the mode is that one", () => {
    const under = (name: string): oci.Spec => {
      const program = join(dir, name);
      symlinkSync(RUNTIME, program);
      put({ env: ["NVIDIA_VISIBLE_DEVICES=a"] });
      const { status, stdout, stderr } = run(["create", "--bundle", ".", "x"], 'mode = "csv"\n', "", program);
      assert.equal(status, 7, stderr);
      return JSON.parse(stdout) as oci.Spec;
    };
    assert.equal(valueOf(under("nvidia-container-runtime.cdi"), "ACME"), "ACME=a");
    assert.deepEqual(
      under("nvidia-container-runtime.legacy").hooks?.prestart?.map(({ path }) => path),
      [PRESTART],
    );
  });

  test("compiled code is kept from one create to the next, though no Node comes to its end", () => {
    const cache = join(dir, "cache");
    put(asks("0"));
    writeFileSync(join(dir, "config.toml"), toml("", ""));
    const env = {
      DIR: dir,
      NODE_COMPILE_CACHE: cache,
      NVIDIA_CTK_CONFIG_FILE_PATH: join(dir, "config.toml"),
      FAKE_NVML: join(dir, "nvml.txt"),
    };
    const { status, stderr } = spawnSync(RUNTIME, ["create", "x"], {
      cwd: join(dir, "bundle"),
      encoding: "utf8",
      env: { ...process.env, ...env },
    });
    assert.equal(status, 7, stderr);
    assert.ok(readdirSync(cache, { recursive: true }).length > 20);
  });

  test("runtimes, however the file has them", () => {
    const low = join(dir, "low");
    const files = [
      `nvidia-container-runtime.runtimes = ["${low}"]\n`,
      `"nvidia-container-runtime" = { runtimes = ["${low}"] }\n`,
      `[ nvidia-container-runtime ]\nruntimes = ["${low}"]\n`,
      `[nvidia-container-runtime]\nruntimes = [\n  '/no', # comment\n  "${low}",\n]\n`,
      `x = """\n[nvidia-container-runtime]\nruntimes = ["/bin/true"]\n"""\n[nvidia-container-runtime]\nruntimes = ["${low}"]\n`,
      `[nvidia-container-runtime]\n  "runtimes" = ["${low}"]\n`,
    ];
    for (const file of files) {
      writeFileSync(join(dir, "other.toml"), file);
      const env = { ...process.env, DIR: dir, NVIDIA_CTK_CONFIG_FILE_PATH: join(dir, "other.toml") };
      const { status, stderr } = spawnSync(RUNTIME, ["list"], { cwd: "/", env, encoding: "utf8" });
      assert.equal(status, 7, `${file}${stderr}`);
    }
    const bad: readonly (readonly [string, RegExp])[] = [
      ["[nvidia-container-runtime]\nruntimes = []\n", /none of no names is a program/],
      ["[nvidia-container-runtime]\nruntimes = ['/no/a', '/no/b']\n", /none of \/no\/a, \/no\/b is a program/],
      [
        "[nvidia-container-runtime]\nruntimes = 'runc'\n",
        /other.toml: nvidia-container-runtime.runtimes must be a list/,
      ],
      ["[nvidia-container-runtime\n", /other.toml: Invalid TOML/],
    ];
    for (const [file, message] of bad) {
      writeFileSync(join(dir, "other.toml"), file);
      const env = { ...process.env, NVIDIA_CTK_CONFIG_FILE_PATH: join(dir, "other.toml") };
      const { status, stderr } = spawnSync(RUNTIME, ["create", "x"], { cwd: "/", env, encoding: "utf8" });
      assert.equal(status, 1, file);
      assert.match(stderr, message);
    }
  });

  test("jit-cdi: GPUs by index, UUID, all, none; nothing for void, empty and no variable", () => {
    assert.deepEqual(gpus(created(asks("0"))), ["/dev/nvidia0"]);
    assert.deepEqual(gpus(created(asks(` ${UUID}, `))), ["/dev/nvidia1"]);
    assert.deepEqual(gpus(created(asks("all"))), ["/dev/nvidia0", "/dev/nvidia1"]);
    assert.deepEqual(gpus(created(asks("1,all"))), ["/dev/nvidia0", "/dev/nvidia1"]);
    const none = created(asks("none"));
    assert.deepEqual([gpus(none), nodes(none).includes("/dev/nvidiactl")], [[], true]);
    for (const value of ["void", "", "0,void"]) assert.deepEqual(nodes(created(asks(value))), []);
    assert.deepEqual(nodes(created({})), []);
    const spec = created(asks("0"));
    const socket = "/run/nvidia-persistenced/socket";
    const sockets = (one: oci.Spec): boolean => one.mounts?.some(({ destination }) => destination === socket) === true;
    const flags =
      'mode = "jit-cdi"\n[nvidia-container-runtime.modes.jit-cdi]\nnvcdi-feature-flags = ["disable-ipc-discoverer"]\n';
    assert.deepEqual([sockets(spec), sockets(created(asks("0"), flags))], [true, false]);
    assert.equal(valueOf(spec, "NVIDIA_VISIBLE_DEVICES"), "NVIDIA_VISIBLE_DEVICES=void");
    const names = ["create-symlinks", "enable-cuda-compat", "update-ldcache", "disable-device-node-modification"];
    assert.deepEqual([...new Set(hookNames(spec))], [...names, "update-application-profile"]);
    assert.ok(spec.mounts?.some(({ destination }) => destination.endsWith("/libcuda.so.525.147.05")));
    assert.equal(statSync(join(dir, "bundle/config.json")).mode & 0o777, 0o640);
    fails(asks("7"), /device-id 7: NVML knows no GPU/);
  });

  test("images of CUDA: all GPUs without a word, unless they say what they require", () => {
    assert.equal(gpus(created({ env: ["CUDA_VERSION=12.2.0"] })).length, 2);
    assert.deepEqual(nodes(created({ env: ["CUDA_VERSION=12.2.0", "NVIDIA_REQUIRE_CUDA=cuda>=12.2"] })), []);
  });

  test("jit-cdi: what stands beside the GPUs", () => {
    const env = ["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_GDS=enabled", "NVIDIA_GDRCOPY=enabled", "NVIDIA_MOFED=no"];
    assert.ok(nodes(created({ env: [...env, "NVIDIA_IMEX_CHANNELS=1"] })).includes("/dev/nvidia-fs0"));
    const channel = "/dev/nvidia-caps-imex-channels/channel1";
    assert.ok(nodes(created({ env: [...env, "NVIDIA_IMEX_CHANNELS=1"] })).includes(channel));
    assert.ok(!nodes(created({ env: [...env, "NVIDIA_IMEX_CHANNELS=all"] })).includes(channel));
    const off = "[features]\nignore-imex-channel-requests = true";
    assert.ok(
      !nodes(created({ env: [...env, "NVIDIA_IMEX_CHANNELS=1"] }, `mode = "jit-cdi"\n${off}`)).includes(channel),
    );
  });

  test("cdi: names, annotations before variables, the default kind, and no NVIDIA hook beside", () => {
    const prestart = [{ path: PRESTART }, { path: "/bin/true" }];
    const spec = created({ ...asks("acme.com/gpu=a"), prestart });
    assert.equal(valueOf(spec, "ACME"), "ACME=a");
    assert.deepEqual(spec.hooks?.prestart, [{ path: "/bin/true" }]);
    assert.equal(valueOf(created(asks("a"), 'mode = "cdi"'), "ACME"), "ACME=a");
    assert.equal(valueOf(created(asks("none"), 'mode = "cdi"'), "ACME"), "ACME=none");
    const annotations = { "cdi.k8s.io/x": "acme.com/gpu=a" };
    assert.equal(valueOf(created({ ...asks("none"), annotations }, 'mode = "cdi"'), "ACME"), "ACME=a");
    assert.equal(valueOf(created({ ...asks("void"), annotations }, 'mode = "jit-cdi"'), "ACME"), undefined);
    fails(asks("acme.com/gpu=b"), /unresolvable CDI devices acme.com\/gpu=b/);
    fails(asks("acme.com/gpu=a,0"), /runtime.nvidia.com\/gpu cannot be asked for beside other CDI devices/);
  });

  test("mounts of /dev/null, and variables of containers that are not privileged", () => {
    const top =
      "accept-nvidia-visible-devices-as-volume-mounts = true\naccept-nvidia-visible-devices-envvar-when-unprivileged = false";
    const mount = (name: string): oci.Mount => ({
      destination: `/var/run/nvidia-container-devices/${name}`,
      source: "/dev/null",
      type: "bind",
    });
    assert.deepEqual(gpus(created({ ...asks("0"), mounts: [mount("1")] }, "", top)), ["/dev/nvidia1"]);
    assert.deepEqual(nodes(created(asks("0"), "", top)), []);
    assert.match(
      readFileSync(join(dir, "log"), "utf8"),
      /level=warning msg="ignoring NVIDIA_VISIBLE_DEVICES of a container/,
    );
    assert.deepEqual(gpus(created({ ...asks("0"), privileged: true }, "", top)), ["/dev/nvidia0"]);
    assert.equal(valueOf(created({ mounts: [mount("cdi/acme.com/gpu/a")] }, "", top), "ACME"), "ACME=a");
    assert.deepEqual(gpus(created({ ...asks("0"), mounts: [mount("1")] })), ["/dev/nvidia0"], "mounts do not count");
    const swarm = 'swarm-resource = "DOCKER_RESOURCE_GPU, OTHER"';
    assert.deepEqual(gpus(created({ env: ["NVIDIA_VISIBLE_DEVICES=0", "OTHER=1"] }, "", swarm)), ["/dev/nvidia1"]);
  });

  test("legacy: the prestart hook once, graphics and newer CUDA libraries by the runtime", () => {
    const hook = { path: PRESTART, args: ["nvidia-container-runtime-hook", "prestart"] };
    const legacy = 'mode = "legacy"';
    assert.deepEqual(created(asks("0"), legacy).hooks, { prestart: [hook] });
    assert.deepEqual(created({}, legacy).hooks, { prestart: [hook] });
    assert.deepEqual(created({ ...asks("0"), prestart: [hook] }, legacy).hooks, { prestart: [hook] });
    const graphics = created({ env: ["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=graphics"] }, legacy);
    assert.ok(graphics.mounts?.some(({ destination }) => destination.includes("/egl_vendor.d/10_nvidia.json")));
    const compat = `${legacy}\n[nvidia-container-runtime.modes.legacy]\ncuda-compat-mode = "hook"`;
    assert.deepEqual(hookNames(created(asks("0"), compat)), ["enable-cuda-compat", "update-ldcache"]);
  });

  test("csv: what the image requires of the driver", () => {
    const csv = 'mode = "csv"';
    const requiring = (...texts: string[]): Ask => ({
      env: ["NVIDIA_VISIBLE_DEVICES=0", ...texts.map((text, index) => `NVIDIA_REQUIRE_${index}=${text}`)],
    });
    assert.equal(created(requiring("cuda>=11.0 brand=x,cuda>99"), csv).ociVersion, "1.0.2");
    assert.equal(created(requiring("unknown>=9", "arch>=8.0,driver<600"), csv).ociVersion, "1.0.2");
    fails(
      requiring("cuda>=13.1"),
      /requires .*cuda>=13.1.* of the driver, which has cuda 12.0, driver 525.147.05, arch 8.0/,
      csv,
    );
    fails(requiring("cuda"), /invalid requirement .*cuda/, csv);
    const skip = { env: [...(requiring("cuda>=13.1").env ?? []), "NVIDIA_DISABLE_REQUIRE=true"] };
    assert.equal(created(skip, csv).ociVersion, "1.0.2");
  });

  test("a configuration or bundle that is wrong is named", () => {
    fails(
      asks("0"),
      /nvidia-container-runtime.mode: invalid mode .*x.*, must be one of auto, legacy, csv, cdi, jit-cdi/,
      'mode = "x"',
    );
    fails(asks("0"), /config.toml: disable-require must be a boolean/, "", "disable-require = 1");
    writeFileSync(join(dir, "bundle/config.json"), "{");
    assert.match(run(["create", "x"]).stderr, /bundle\/config.json: .*JSON/);
    assert.match(
      run(["create", "-b", "/no/bundle", "x"]).stderr,
      /no such file or directory, open '\/no\/bundle\/config.json'/,
    );
    assert.match(run(["create", "x", "--bundle"]).stderr, /--bundle: it takes a directory/);
  });
});
