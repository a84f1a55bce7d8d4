/** A failure at every step of berth-runc's own: each order of its plan, and what is done outside of the plan. Nothing is left. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { PlanLine } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { withMount } from "./support/containers.ts";
import { withLinux, withProcess } from "./support/machine.ts";
import { BERTH_RUNC, whyNoRuntime, Workshop } from "./support/runtimes.ts";

const BUILD = new URL("../../../.build", import.meta.url).pathname;
const BOSUN = join(BUILD, "native/bosun");
const POISONED = new URL("support/poisoned.ts", import.meta.url).pathname;
const skip = whyNoRuntime();
/** All that a run starts begins in a cgroup of its own, so that what is left is found wherever it hides. */
const WATCHED = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"].find((path) => existsSync(join(path, "cgroup.procs")));

function full(volume: string, hooks: oci.Hooks): (spec: oci.Spec) => oci.Spec {
  return (spec) => ({
    ...withMount(
      withLinux({
        sysctl: { "net.ipv4.ip_forward": "1" },
        rootfsPropagation: "rslave",
        devices: [{ path: "/dev/fuse", type: "c", major: 10, minor: 229 }],
        resources: { memory: { limit: 1 << 26 }, pids: { limit: 20 }, devices: [{ allow: false }] },
      })(withProcess({ terminal: true, user: { uid: 1000, gid: 1000 }, cwd: "/tmp", oomScoreAdj: 500 })(spec)),
      { destination: "/data", type: "bind", source: volume, options: ["rbind", "ro"] },
    ),
    hooks,
  });
}

describe(
  "berth-runc create",
  skip === undefined && WATCHED !== undefined ? {} : { skip: skip ?? "no cgroup to watch" },
  () => {
    let shop: Workshop;
    let watched: string;
    let bundle: string;
    let socket: string;
    const hook = { path: "/bin/true" };
    /** Nobody takes the terminals: they lie in the socket's queue, and go with it. */
    const server = createServer((connection) => connection.destroy());
    before(async () => {
      shop = new Workshop({ path: BERTH_RUNC });
      socket = join(shop.directory, "console.sock");
      server.listen(socket);
      await once(server, "listening");
      watched = join(WATCHED ?? "", `berth-creation-${process.pid}`);
      mkdirSync(watched);
      bundle = shop.bundle(
        "exit 3",
        full(shop.directory, { prestart: [hook], createRuntime: [hook], createContainer: [hook] }),
      );
    });
    after(() => {
      server.close();
      shop[Symbol.dispose]();
      rmdirSync(watched);
    });

    const start = (command: readonly string[], failing = ""): { status: number; stderr: string } => {
      // A file: a pipe would be waited for as long as the container has it.
      const said = join(shop.directory, "said");
      const out = openSync(said, "w");
      const { status, error } = spawnSync(
        "sh",
        ["-c", `echo 0 >${watched}/cgroup.procs; exec "$@"`, "sh", ...command],
        {
          stdio: ["ignore", "ignore", out],
          env: { ...process.env, BERTH_TEST_FAIL: failing, NODE_COMPILE_CACHE: join(BUILD, "compile-cache") },
          timeout: 60_000,
        },
      );
      closeSync(out);
      if (error !== undefined) throw error;
      return { status: status ?? -1, stderr: readFileSync(said, "utf8") };
    };
    const poisoned = (failing: string, ...args: readonly string[]) =>
      start(
        [
          BOSUN,
          "runc",
          process.execPath,
          "--disable-warning=ExperimentalWarning",
          POISONED,
          "--root",
          shop.root,
          ...args,
        ],
        failing,
      );
    const plain = (...args: readonly string[]) => start([BERTH_RUNC, "--root", shop.root, ...args]);

    const cgroups = () => {
      const mounts = readFileSync("/proc/self/mounts", "utf8")
        .split("\n")
        .map((line) => line.split(" "));
      return mounts.filter(([, , type]) => type === "cgroup" || type === "cgroup2").map(([, target = ""]) => target);
    };
    const nothingIsLeft = async (id: string, what: string): Promise<void> => {
      assert.equal(existsSync(join(shop.root, id)), false, `${what}: the state directory`);
      for (const target of cgroups()) assert.equal(existsSync(join(target, id)), false, `${what}: ${join(target, id)}`);
      // A process set aside ends by itself, a moment after the one that it was for.
      const processes = () => readFileSync(join(watched, "cgroup.procs"), "utf8").trim();
      for (const deadline = Date.now() + 60_000; processes() !== "" && Date.now() < deadline;)
        await new Promise((resolve) => setTimeout(resolve, 5));
      assert.equal(processes(), "", `${what}: processes`);
      assert.doesNotMatch(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(shop.directory), `${what}: mounts`);
    };

    /** failures.test.ts lets every single order fail; here it is each kind of order, in each place: the way back is the command's own. */
    test("a failure at each kind of order of its plan, one by one, leaves nothing", { timeout: 240_000 }, async () => {
      const lines = JSON.parse(
        shop.run("create", "-b", bundle, "--plan", "--json", "--console-socket", socket, "planned").stdout,
      ) as PlanLine[];
      const names = lines.map(({ order }) => order);
      for (const one of ["make_fifo", "aside", "runtime_hook", "hook", "console", "park", "wait_fifo", "exec"] as const)
        assert.ok(names.includes(one), one);
      const waits = names.indexOf("wait_fifo");
      const creation = ["create", "-b", bundle, "--console-socket", socket];
      const kinds = new Set<string>();
      for (const [index, { words, where, order }] of lines.entries()) {
        if (index < names.indexOf("park") && kinds.has(`${where} ${order}`)) continue;
        kinds.add(`${where} ${order}`);
        const id = shop.id();
        const made = poisoned(String(index), ...creation, id);
        if (index > waits) {
          // From here on the process is alone: it ends, and the container is one that has stopped.
          assert.equal(made.status, 0, made.stderr);
          plain("start", id);
          assert.equal(plain("delete", "-f", id).status, 0);
        } else {
          assert.equal(made.status, 1, `order ${index} (${words})`);
          assert.match(made.stderr, /slot 4000 is empty/, `order ${index} (${words})`);
        }
        await nothingIsLeft(id, `order ${index} (${words})`);
      }
    });

    test("a failure of what is done outside of the plan leaves nothing either", async () => {
      const nowhere = join(shop.directory, "nowhere", "x");
      const creation = ["create", "-b", bundle];
      const fails = async (what: string, message: RegExp, run: (id: string) => { status: number; stderr: string }) => {
        const id = shop.id();
        const { status, stderr } = run(id);
        assert.equal(status, 1, what);
        assert.match(stderr, message, what);
        await nothingIsLeft(id, what);
      };
      await fails("state.json", /ENOSPC: state\.json/, (id) =>
        poisoned("write", ...creation, "--console-socket", socket, id),
      );
      await fails("the pid file", /open .*nowhere.*: no such file or directory/, (id) =>
        plain(...creation, "--console-socket", socket, "--pid-file", nowhere, id),
      );
      await fails("the console's socket", /ENOENT|no such file/, (id) =>
        plain(...creation, "--console-socket", nowhere, id),
      );
      await fails("the pidfd's socket", /pidfd socket .*nowhere/, (id) =>
        plain(...creation, "--console-socket", socket, "--pidfd-socket", nowhere, id),
      );
      for (const kind of ["prestart", "createRuntime", "createContainer"] as const) {
        const broken = shop.bundle("true", (spec) => ({ ...spec, hooks: { [kind]: [hook, { path: "/bin/false" }] } }));
        await fails(`a ${kind} hook`, new RegExp(`error running ${kind} hook #1`), (id) =>
          plain("create", "-b", broken, id),
        );
      }
      for (const kind of ["startContainer", "poststart"] as const) {
        const broken = shop.bundle("sleep 60", (spec) => ({ ...spec, hooks: { [kind]: [{ path: "/bin/false" }] } }));
        await fails(`a ${kind} hook`, new RegExp(`error running ${kind} hook #0`), (id) =>
          plain("run", "-d", "-b", broken, id),
        );
      }
      const file = join(shop.directory, "file");
      writeFileSync(file, "");
      await fails("a state directory that cannot be made", /not a directory|file exists/, (id) =>
        start([BERTH_RUNC, "--root", file, ...creation, "--console-socket", socket, id]),
      );
    });

    test("a name that is taken leaves the container that has it as it is", async () => {
      const id = shop.id();
      const own = shop.bundle("sleep 60");
      assert.equal(plain("create", "-b", own, id).status, 0);
      assert.match(plain("create", "-b", own, id).stderr, /already exists|cgroup is not empty/);
      assert.equal(shop.status(id), "created");
      assert.equal(plain("start", id).status, 0);
      assert.equal(plain("delete", "-f", id).status, 0);
      await nothingIsLeft(id, "the container");
    });
  },
);
