/** The commands that are answered before Node is started: without it, as it would answer, and whatever is in their file. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { flatRecord } from "../src/state/flat.ts";
import { StateDirectory, type ContainerRecord } from "../src/state/record.ts";
import { processStart } from "../src/state/status.ts";
import { BERTH_RUNC, Workshop, whyNoRuntime } from "./support/runtimes.ts";

const BUILD = new URL("../../native/build-program", import.meta.url).pathname;
const BUILT = new URL("../../../.build/native/", import.meta.url).pathname;
const NODE = { BERTH_RUNC_ONLY_NODE: "1" };
const skip = whyNoRuntime();

/** The program in a checkout that has nothing else: what it cannot answer by itself fails. */
function alone(program: string): { readonly path: string; [Symbol.dispose](): void } {
  const directory = mkdtempSync(join(tmpdir(), "berth-front-"));
  const path = join(directory, ".build/native/berth-runc");
  mkdirSync(join(path, ".."), { recursive: true });
  copyFileSync(program, path);
  return { path, [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }) };
}

describe("answered without Node", skip === undefined ? {} : { skip }, () => {
  let shop: Workshop;
  before(() => {
    shop = new Workshop({ path: BERTH_RUNC });
  });
  after(() => {
    shop[Symbol.dispose]();
  });

  test("a container's life but its creation", () => {
    using lone = alone(join(BUILT, "berth-runc"));
    const id = shop.id();
    assert.equal(shop.quiet("create", "-b", shop.bundle("exec sleep 60"), id), 0);
    const front = (...args: readonly string[]) =>
      spawnSync(lone.path, ["--root", shop.root, "--log", "/dev/null", "--log-format", "json", ...args], {
        encoding: "utf8",
      });
    const status = () => (JSON.parse(front("state", id).stdout) as { status: string }).status;
    assert.equal(status(), "created");
    assert.equal(front("start", id).status, 0);
    assert.equal(status(), "running");
    assert.equal(existsSync(join(shop.root, id, "exec.fifo")), false);
    assert.equal(front("kill", id, "0").status, 0);
    assert.equal(front("pause", id).status, 0);
    assert.equal(status(), "paused");
    assert.equal(front("resume", id).status, 0);
    assert.match(front("ps", "-f", "json", id).stdout, /^\[\d+\]\n$/);
    assert.ok(front("list", "-q").stdout.split("\n").includes(id));
    // What is refused is Node's to say, and without it nothing is done.
    const refused = front("delete", id);
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /scripts\/setup/);
    assert.equal(status(), "running");
    assert.equal(front("kill", id, "SIGKILL").status, 0);
    assert.equal(front("delete", "--force", id).status, 0);
    assert.equal(front("delete", "-f", id).status, 0);
    assert.equal(existsSync(join(shop.root, id)), false);
    assert.equal(existsSync(`/sys/fs/cgroup/pids/${id}`), false);
  });

  test("the same words, byte by byte", () => {
    const states = new StateDirectory(shop.root);
    const odd = 'tab\t "quoted" \\ é \u0001 \u2028';
    const [id, gone] = [shop.id(), shop.id()];
    const bundle = shop.bundle("exec sleep 60", (spec) => ({
      ...spec,
      annotations: { b: odd, a: "1", "": "", 7: "x" },
    }));
    for (const name of [id, gone]) assert.equal(shop.quiet("run", "-d", "-b", bundle, name), 0);
    assert.equal(shop.run("kill", gone, "KILL").status, 0);
    while (processStart(states.read(gone).init_process_pid) !== undefined);
    const said = (env: NodeJS.ProcessEnv, args: readonly string[]) => {
      const { status, stdout, stderr } = shop.runWith({ env: { ...process.env, ...env } }, ...args);
      return { status, stdout, stderr: stderr.replace(/time="[^"]*"/, "time=") };
    };
    const lines = [
      ...["state", "kill", "pause", "resume", "start", "delete"].flatMap((verb) => [
        [verb],
        [verb, "absent"],
        [verb, "a/b"],
      ]),
      ...[id, gone].flatMap((name) => [
        ["state", name],
        ["ps", "--format=json", name],
        ["kill", name, "0"],
      ]),
      ...["kill", "resume", "start", "delete"].map((verb) => [verb, "-x", id]),
      ...["00", "65", "SIGNOPE", "RTMIN+1x", "-1"].map((signal) => ["kill", id, signal]),
      ["kill", gone, "TERM"],
      ["kill", "-a", gone, "9"],
      ["start", id],
      ["start", gone],
      ["resume", id],
      ["pause", gone],
      ["list"],
      ["list", "-q"],
      ["list", "-f", "json"],
      ["list", "--format", "yaml"],
      ["list", "-q=maybe"],
      ["features"],
      ["--version"],
      ["--debug", "state", id],
      ["--log-format", "xml", "state", id],
      ["state", id, "--", id],
    ];
    for (const line of lines) assert.deepEqual(said({}, line), said(NODE, line), line.join(" "));
    for (const name of [id, gone]) assert.equal(shop.run("delete", "-f", name).status, 0);
  });

  test("a process that dies at the FIFO: start says so and does not wait", async () => {
    const id = shop.id();
    assert.equal(shop.quiet("create", "-b", shop.bundle("true"), id), 0);
    const { pid } = JSON.parse(shop.run("state", id).stdout) as { pid: number };
    process.kill(pid, "SIGSTOP");
    const starting: ChildProcess = shop.start("start", id);
    const waits = () => {
      const open = `/proc/${starting.pid ?? 0}/fd`;
      return readdirSync(open).some((fd) => readlinkSync(join(open, fd)).endsWith("/exec.fifo"));
    };
    while (!waits()) await new Promise(setImmediate);
    process.kill(pid, "SIGKILL");
    const [status] = (await once(starting, "exit")) as [number];
    assert.equal(status, 1);
    assert.equal(shop.run("delete", id).status, 0);
  });
});

/** A record of a process that is this one. */
function record(change: Partial<ContainerRecord> = {}): ContainerRecord {
  const spec = { ociVersion: "1.2.0", annotations: { a: "b" } };
  return {
    id: "one",
    init_process_pid: process.pid,
    init_process_start: processStart(process.pid) ?? 0,
    created: "2030-01-02T03:04:05.000000000Z",
    config: {
      rootfs: "/rootfs",
      version: "1.2.0",
      labels: [],
      namespaces: [{ type: "NEWPID", path: "" }],
      cgroups: { path: "/none", systemd: false },
    },
    rootless: false,
    cgroup_paths: { freezer: "/no/such/freezer", pids: "/no/such/pids" },
    namespace_paths: {},
    external_descriptors: [],
    intel_rdt_path: "",
    berth: { bundle: "/bundle", cgroup: "/none", spec, noNewKeyring: false },
    ...change,
  };
}

describe("Node", () => {
  const noBuild = existsSync(join(BUILT, "berth-runc")) ? undefined : "needs scripts/setup";
  test(
    "runs the bundle, and the sources where one of them is newer",
    noBuild === undefined ? {} : { skip: noBuild },
    () => {
      using lone = alone(join(BUILT, "berth-runc"));
      const checkout = join(lone.path, "../../..");
      writeFileSync(join(checkout, ".build/native/bosun"), `#!/bin/sh\nprintf '%s\\n' "$@" "$BERTH_RUNC_NAME"\n`, {
        mode: 0o755,
      });
      mkdirSync(join(checkout, ".build/command"));
      writeFileSync(join(checkout, "source.ts"), "");
      const { size, mtimeNs } = statSync(join(checkout, "source.ts"), { bigint: true });
      const manifest = [
        "berth-runc 1",
        "bin/node",
        "--one --two=2",
        "1.2.3\nspec: 1.0\n",
        "source.ts",
        String(size),
        String(mtimeNs),
      ];
      writeFileSync(join(checkout, ".build/command/manifest"), manifest.map((text) => `${text}\0`).join(""));
      const said = (...args: readonly string[]) => spawnSync(lone.path, args, { encoding: "utf8" }).stdout;
      const lines = (words: readonly string[]) => words.map((word) => `${word}\n`).join("");
      const program = join(checkout, ".build/command/main.cjs");
      const bundled = ["runc", join(checkout, "bin/node"), "--one", "--two=2", program, "create", "a b", lone.path];
      assert.equal(said("create", "a b"), lines(bundled));
      assert.equal(said("--version"), "berth-runc version 1.2.3\nspec: 1.0\n");
      writeFileSync(join(checkout, "source.ts"), "changed");
      const sources = ["runc", join(checkout, "scripts/berth-runc-decider")];
      assert.equal(said("create", "a b"), lines([...sources, "create", "a b", lone.path]));
      assert.equal(said("--version"), lines([...sources, "--version", lone.path]));
    },
  );

  test(
    "takes the code that was compiled when the bundle was made",
    noBuild === undefined ? {} : { skip: noBuild },
    () => {
      const directory = join(BUILT, "../command");
      const [, , flags = ""] = readFileSync(join(directory, "manifest"), "utf8").split("\0");
      // By V8 with the same flags.
      const script = `import { createRequire } from "node:module";
import { loadBundle } from ${JSON.stringify(new URL("../bundle/load.ts", import.meta.url).href)};
const { script } = loadBundle(${JSON.stringify(directory)}, createRequire(${JSON.stringify(import.meta.url)}));
console.log(script.cachedDataRejected);`;
      const argv = [...flags.split(" "), "--input-type=module", "-e", script];
      assert.equal(execFileSync(process.execPath, argv, { encoding: "utf8" }), "false\n");
    },
  );
});

describe("state.flat", () => {
  test("is left out where a string has no place in it", () => {
    const { berth } = record();
    for (const bundle of ["/a\0b", "/\ud800"])
      assert.equal(flatRecord(record({ berth: { ...berth, bundle } })), undefined, JSON.stringify(bundle));
    const hooked = (kind: "poststart" | "poststop") => ({
      berth: { ...berth, spec: { ...berth.spec, hooks: { [kind]: [{ path: "/x" }] } } },
    });
    const needs = (change: Partial<ContainerRecord>) => flatRecord(record(change))?.split("\0")[1];
    assert.deepEqual([needs({}), needs(hooked("poststart")), needs(hooked("poststop"))], ["", "s", "d"]);
  });

  const noClang = spawnSync("clang", ["--version"]).error === undefined ? undefined : "clang is not installed";
  test("is read within its bounds, whatever is in it", noClang === undefined ? {} : { skip: noClang }, () => {
    execFileSync(BUILD, ["command", "--sanitize"]);
    using lone = alone(join(BUILT, "berth-runc-asan"));
    const root = join(lone.path, "../root");
    mkdirSync(join(root, "one"), { recursive: true });
    const file = join(root, "one", "state.flat");
    const state = (bytes: Buffer) => {
      writeFileSync(file, bytes);
      return spawnSync(lone.path, ["--root", root, "state", "one"], {
        encoding: "utf8",
        // What a command has taken at its end goes with it.
        env: { ...process.env, ASAN_OPTIONS: "detect_leaks=0" },
      });
    };
    const whole = Buffer.from(flatRecord(record()) ?? "");
    const right = state(whole);
    assert.equal((JSON.parse(right.stdout) as { status: string }).status, "running", right.stderr);
    assert.equal(statSync(file).size, whole.length);
    const broken = [
      ...Array.from({ length: whole.length / 2 }, (_none, half) => whole.subarray(0, half * 2)),
      // Without one of its ends of a string, and with one more at every fourth byte.
      ...Array.from(whole, (byte, at) => ({ byte, at }))
        .filter(({ byte, at }) => byte === 0 || at % 4 === 0)
        .map(({ byte, at }) =>
          Buffer.concat([whole.subarray(0, at), Buffer.of(byte === 0 ? 0x39 : 0), whole.subarray(at + 1)]),
        ),
    ];
    for (const bytes of broken) {
      const { status, stderr } = state(bytes);
      assert.doesNotMatch(stderr, /Sanitizer|runtime error/, bytes.toString("latin1"));
      assert.ok(status === 1 || status === 0);
    }
    assert.equal(state(Buffer.concat([whole, Buffer.of(0)])).status, 1);
  });
});
