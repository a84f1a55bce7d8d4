/** berth-runc's command line, and runc's beside it: the same commands, outputs and exit statuses. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { withProcess } from "./support/machine.ts";
import { Workshop, runtimes, whyNoRuntime } from "./support/runtimes.ts";

const skip = whyNoRuntime();

for (const runtime of runtimes()) {
  const { name, path } = runtime;
  describe(runtime.title, skip === undefined ? {} : { skip }, () => {
    let shop: Workshop;
    before(() => {
      shop = new Workshop(runtime);
    });
    after(() => {
      shop[Symbol.dispose]();
    });

    test("a container's life: created, running, stopped, deleted", async () => {
      const id = shop.id();
      const bundle = shop.bundle("echo from inside; exec sleep 60");
      assert.equal(shop.quiet("create", "--bundle", bundle, "--pid-file", join(shop.directory, "pid"), id), 0);
      const created = JSON.parse(shop.run("state", id).stdout) as Record<string, unknown>;
      assert.deepEqual(
        [created.id, created.status, created.bundle, created.rootfs],
        [id, "created", bundle, join(shop.directory, "rootfs")],
      );
      assert.equal(created.pid, Number(readFileSync(join(shop.directory, "pid"), "utf8")));
      // Nobody stands beside it: it belongs to whoever is the caller's subreaper, as a shim needs it.
      const parent = Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${String(created.pid)}/status`, "utf8"))?.[1]);
      assert.doesNotMatch(readFileSync(`/proc/${parent}/comm`, "utf8"), /bosun|runc/);
      assert.equal(shop.run("start", id).status, 0);
      assert.equal(shop.status(id), "running");
      const running = shop.run("delete", id);
      assert.equal(running.status, 1);
      assert.match(running.stderr, new RegExp(`cannot delete container ${id} that is not stopped: running`));
      assert.equal(shop.run("start", id).status, 1);
      assert.equal(shop.run("kill", id, "KILL").status, 0);
      await until(() => shop.status(id) === "stopped");
      const stopped = JSON.parse(shop.run("state", id).stdout) as Record<string, unknown>;
      assert.equal(stopped.pid, 0);
      assert.equal(shop.run("delete", id).status, 0);
      assert.equal(existsSync(join(shop.root, id)), false);
      assert.equal(shop.run("state", id).status, 1);
    });

    test("a created container holds nothing of the host's open, and a signal ends it", async () => {
      const id = shop.id();
      assert.equal(shop.quiet("create", "-b", shop.bundle("true"), id), 0);
      const { pid } = JSON.parse(shop.run("state", id).stdout) as { pid: number };
      if (name === "berth-runc") {
        // Standard input, output and error are /dev/null here; what is left is the directory of the FIFO it waits at.
        const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
        assert.deepEqual(
          open.filter((target) => target !== "/dev/null"),
          ["/"],
        );
      }
      assert.equal(shop.run("kill", id, "TERM").status, 0);
      await until(() => shop.status(id) === "stopped");
      assert.equal(shop.run("delete", id).status, 0);
    });

    test("run in the foreground: input, outputs, status, nothing left", () => {
      const id = shop.id();
      const bundle = shop.bundle("cat; echo oops >&2; exit 7");
      const { status, stdout, stderr } = shop.runWith({ input: "through\n" }, "run", "-b", bundle, id);
      assert.deepEqual([status, stdout, stderr], [7, "through\n", "oops\n"]);
      assert.equal(existsSync(join(shop.root, id)), false);
      assert.equal(existsSync(`/sys/fs/cgroup/pids/${id}`), false);
    });

    test("run: a process that dies of a signal is 128 and it; --keep leaves the container", () => {
      const id = shop.id();
      // PID 1 of its namespace: only a signal from outside, or one that it has a handler for, reaches it.
      const bundle = shop.bundle("trap 'exit 5' TERM; kill -TERM $$; sleep 1");
      assert.equal(shop.quiet("run", "--keep", "-b", bundle, id), 5);
      assert.equal(shop.status(id), "stopped");
      assert.equal(shop.run("delete", id).status, 0);
    });

    test("run hands signals on to the process", async () => {
      const id = shop.id();
      const child = shop.start(
        "run",
        "-b",
        shop.bundle("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"),
        id,
      );
      child.stdout?.once("data", () => child.kill("SIGUSR1"));
      const status = await new Promise((resolve) => {
        child.once("exit", resolve);
      });
      assert.equal(status, 9);
    });

    test("exec: output, input, status, user, environment, directory", () => {
      const id = shop.id();
      assert.equal(shop.quiet("run", "-d", "-b", shop.bundle("exec sleep 60"), id), 0);
      const first = shop.runWith({ input: "in\n" }, "exec", id, "sh", "-c", "cat; echo err >&2; exit 3");
      assert.deepEqual([first.status, first.stdout, first.stderr], [3, "in\n", "err\n"]);
      const second = shop.run(
        "exec",
        "-u",
        "1000:100",
        "-g",
        "7",
        "-e",
        "A=b",
        "--cwd",
        "/bin",
        id,
        "sh",
        "-c",
        "id -u; id -g; id -G; pwd; echo $A",
      );
      assert.equal(second.stdout, "1000\n100\n100 7\n/bin\nb\n");
      // runc wants a terminal of its own for this; berth-runc does without.
      if (name === "berth-runc") assert.match(shop.run("exec", "-t", id, "tty").stdout, /^\/dev\/pts\/\d+\r?\n$/);
      assert.equal(shop.quiet("exec", "-d", "--pid-file", join(shop.directory, "exec-pid"), id, "sleep", "60"), 0);
      const pid = Number(readFileSync(join(shop.directory, "exec-pid"), "utf8"));
      assert.deepEqual((JSON.parse(shop.run("ps", "-f", "json", id).stdout) as number[]).includes(pid), true);
      assert.match(shop.run("ps", id).stdout, new RegExp(`^UID +PID[^]*root +${pid} `));
      const missing = shop.run("exec", id, "no-such-program");
      assert.equal(missing.status, 255);
      assert.match(missing.stderr, /exec failed: .*exec: \\"no-such-program\\": executable file not found in \$PATH/);
      assert.equal(shop.run("exec", "-u", "1000x", id, "true").status, 255);
      assert.equal(shop.run("delete", "-f", id).status, 0);
    });

    test("pause and resume", () => {
      const id = shop.id();
      assert.equal(shop.quiet("run", "-d", "-b", shop.bundle("exec sleep 60"), id), 0);
      assert.equal(shop.run("resume", id).status, 1);
      assert.equal(shop.run("pause", id).status, 0);
      assert.equal(shop.status(id), "paused");
      assert.equal(shop.run("pause", id).status, 1);
      assert.equal(shop.run("exec", id, "true").status, 255);
      assert.equal(shop.run("resume", id).status, 0);
      assert.equal(shop.run("exec", id, "true").status, 0);
      assert.equal(shop.run("pause", id).status, 0);
      assert.equal(shop.run("delete", "-f", id).status, 0);
    });

    test("a missing program fails the creation and leaves nothing", () => {
      const id = shop.id();
      const bundle = shop.bundle("", withProcess({ args: ["nope"] }));
      for (const verb of ["create", "run"]) {
        const { status, stderr } = shop.run(verb, "-b", bundle, id);
        assert.equal(status, 1);
        assert.match(
          stderr,
          new RegExp(
            `runc ${verb} failed: unable to start container process: exec: ..nope..: executable file not found in \\$PATH`,
          ),
        );
      }
      assert.equal(shop.run("state", id).status, 1);
      assert.equal(existsSync(`/sys/fs/cgroup/pids/${id}`), false);
    });

    test("the log: JSON for shims, and plain text on standard error beside it", () => {
      const log = join(shop.directory, "log.json");
      const { status, stderr } = shop.run("--log", log, "--log-format", "json", "state", "absent");
      assert.deepEqual([status, stderr], [1, "container does not exist\n"]);
      const line = JSON.parse(readFileSync(log, "utf8")) as Record<string, string>;
      assert.deepEqual([line.level, line.msg], ["error", "container does not exist"]);
      assert.match(line.time ?? "", /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
      assert.match(shop.run("state", "absent").stderr, /^time="[^"]+" level=error msg="container does not exist"\n$/);
    });

    test("statuses of a command line that is wrong", () => {
      assert.equal(shop.run("no-such-command").status, 3);
      assert.equal(shop.run("list", "--bogus").status, 1);
      assert.equal(shop.run("state").status, 1);
      assert.equal(shop.run("delete", "absent").status, 1);
      assert.equal(shop.run("delete", "-f", "absent").status, 0);
      assert.equal(shop.run("kill", "absent").status, 1);
      assert.equal(shop.run("create", "-b", shop.bundle("true"), "a/b").status, 1);
      const bundle = shop.bundle("true", withProcess({ terminal: true }));
      const { stderr } = shop.run("create", "-b", bundle, shop.id());
      assert.match(stderr, /cannot allocate tty if runc will detach without setting console socket/);
    });

    test("what is wrong with a command line, in the words of runc 1.5", { skip: name === "runc" }, () => {
      const said = (...args: string[]): readonly unknown[] => {
        const { status, stdout, stderr } = shop.run(...args);
        return [status, stdout.split("\n")[0], stderr.replace(/^time="[^"]+" /gm, "")];
      };
      const wrongFlag = (args: readonly string[], reason: string): void => {
        const lines = `Incorrect Usage: ${reason}\n\nlevel=error msg=${JSON.stringify(reason)}\n`;
        assert.deepEqual(said(...args), [1, "NAME:", lines]);
      };
      wrongFlag(["run", "--bogus", "x"], "flag provided but not defined: -bogus");
      wrongFlag(["create", "--pid-file"], "flag needs an argument: --pid-file");
      wrongFlag(["run", "--detach=maybe", "x"], 'invalid value "maybe" for flag -detach: parse error');
      const notANumber = 'invalid value "x" for flag -g: strconv.ParseInt: parsing "x": invalid syntax';
      wrongFlag(["exec", "-g", "x", "absent", "true"], notANumber);
      wrongFlag(["events", "--interval", "x", "y"], 'invalid value "x" for flag -interval: time: invalid duration "x"');
      const [status, stdout, stderr] = said("exec");
      assert.deepEqual([status, stdout], [1, "Incorrect Usage."]);
      assert.match(String(stderr), /^level=error msg="\S+: \\"exec\\" requires a minimum of 1 argument\(s\)"\n$/);
      const missing = 'level=error msg="runc create failed: chdir /absent: no such file or directory"\n';
      assert.deepEqual(said("create", "-b", "/absent", "x"), [1, "", missing]);
      for (const command of ["list", "spec"])
        assert.deepEqual(
          said("--log", "/absent/log", command),
          [1, "", 'level=error msg="open /absent/log: no such file or directory"\n'],
          command,
        );
      assert.match(
        shop.run("events", "--help").stdout,
        /^ {3}--interval duration {2}set the stats .* \(default: 5s\)$/m,
      );
    });

    test("what is wrong with an exec, in the words of runc 1.5", { skip: name === "runc" }, () => {
      const id = shop.id();
      assert.equal(shop.quiet("run", "-d", "-b", shop.bundle("exec sleep 60"), id), 0);
      const start = "unable to start container process: ";
      for (const [args, reason] of [
        [["-u", "abc", id, "true"], 'bad uid: strconv.Atoi: parsing "abc": invalid syntax'],
        [["-u", "1:2:3", id, "true"], 'bad gid: strconv.Atoi: parsing "2:3": invalid syntax'],
        [["-u", "4294967296", id, "true"], "bad uid: 4294967296 is not a number below 4294967295"],
        [["-u", "-1", id, "true"], "bad uid: -1 is not a number below 4294967295"],
        [["-g", "-5", id, "true"], "additional-gids must be a positive number -5"],
        [["--cwd", "bin", id, "true"], "Cwd must be an absolute path"],
        [
          ["--cwd", "/absent", id, "true"],
          `${start}chdir to cwd ("/absent") set in config.json failed: no such file or directory`,
        ],
        [
          ["--cwd", "/bin/sh", id, "true"],
          `${start}chdir to cwd ("/bin/sh") set in config.json failed: not a directory`,
        ],
        [["--cgroup", "absent:/x", id, "true"], `${start}unknown controller absent in SubCgroupPaths`],
        [["--cgroup", "../..", id, "true"], `${start}error adding pid 0 to cgroups: bad sub cgroup path: ../..`],
        [[id], "exec args cannot be empty"],
      ] as const) {
        const { status, stderr } = shop.run("exec", ...args);
        assert.deepEqual(
          [status, stderr.replace(/^time="[^"]+" /, "")],
          [255, `level=error msg=${JSON.stringify(`exec failed: ${reason}`)}\n`],
        );
      }
      const empty = ["-u", "--cwd", "--apparmor", "--process-label"].flatMap((flag) => [flag, ""]);
      assert.equal(shop.run("exec", ...empty, id, "pwd").stdout, "/\n");
      assert.equal(shop.run("delete", "-f", id).status, 0);
    });

    test("list: a table, JSON, names", () => {
      const id = shop.id();
      using empty = new Workshop(runtime);
      mkdirSync(empty.root);
      assert.equal(empty.run("list").stdout, "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
      assert.equal(empty.run("list", "-f", "json").stdout, "null\n");
      const bundle = shop.bundle("exec sleep 60");
      assert.equal(shop.quiet("run", "-d", "-b", bundle, id), 0);
      assert.ok(shop.run("list", "-q").stdout.split("\n").includes(id));
      const all = JSON.parse(shop.run("list", "--format", "json").stdout) as Record<string, unknown>[];
      const one = all.find((container) => container.id === id);
      assert.deepEqual([one?.id, one?.status, one?.bundle], [id, "running", bundle]);
      const [heading = "", ...rest] = shop.run("list").stdout.split("\n");
      const line = rest.find((text) => text.startsWith(id)) ?? "";
      assert.equal(heading.indexOf("PID"), Math.max(12, id.length + 3));
      assert.equal(line.indexOf("running"), heading.indexOf("STATUS"));
      assert.equal(shop.run("delete", "-f", id).status, 0);
    });

    test("update and events: new limits, and the numbers that show them", async () => {
      const id = shop.id();
      assert.equal(shop.quiet("run", "-d", "-b", shop.bundle("exec sleep 60"), id), 0);
      // runc lets go before its own threads have become the program.
      const { pid } = JSON.parse(shop.run("state", id).stdout) as { pid: number };
      await until(() => readFileSync(`/proc/${pid}/comm`, "utf8") === "sleep\n");
      assert.equal(
        shop.run("update", "--memory", "64m", "--memory-reservation", "32m", "--pids-limit", "20", id).status,
        0,
      );
      const event = JSON.parse(shop.run("events", "--stats", id).stdout) as {
        type: string;
        data: { memory: { usage: { limit: number } }; pids: { limit: number; current: number } };
      };
      assert.equal(event.type, "stats");
      assert.equal(event.data.memory.usage.limit, 64 << 20);
      assert.deepEqual(event.data.pids, { current: 1, limit: 20 });
      assert.equal(shop.run("update", "--memory", "lots", id).status, 1);
      assert.equal(shop.run("delete", "-f", id).status, 0);
    });

    test("events: a kill for memory and the container's end are seen when they happen", async () => {
      const id = shop.id();
      const memory = { limit: 16 << 20, swap: 16 << 20 };
      const bundle = shop.bundle("exec sleep 60", (spec) => ({
        ...spec,
        linux: { ...spec.linux, resources: { ...spec.linux?.resources, memory } },
      }));
      assert.equal(shop.quiet("run", "-d", "-b", bundle, id), 0);
      const events = shop.start("events", "--interval", "1h", id);
      const ended = new Promise((resolve) => events.once("exit", resolve));
      const said: string[] = [];
      events.stdout?.on("data", (chunk) => said.push(String(chunk)));
      // It may take a moment until it listens; what happened before is not told.
      for (let tries = 0; said.length === 0; tries++) {
        assert.ok(tries < 200, "no event came");
        assert.notEqual(shop.quiet("exec", id, "busybox", "tail", "/dev/zero"), 0);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      assert.deepEqual(JSON.parse(said.join("").split("\n")[0] ?? ""), { type: "oom", id });
      assert.equal(shop.run("delete", "-f", id).status, 0);
      assert.equal(await ended, 0);
    });

    test("hooks at their moments, each with the state on its standard input", () => {
      const log = join(shop.directory, `hooks${shop.id()}`);
      const hook = (kind: string) => ({
        path: "/bin/sh",
        args: ["sh", "-c", `s=$(cat); echo "${kind} $s" >>${log}`],
        env: ["PATH=/usr/bin:/bin"],
      });
      const kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
      const bundle = shop.bundle("exec sleep 60", (spec) => ({
        ...spec,
        annotations: { colour: "green" },
        hooks: Object.fromEntries(kinds.map((kind) => [kind, [hook(kind)]])),
      }));
      const id = shop.id();
      // Before runc 1.3 poststart ran in create.
      const early = name === "runc" ? ["poststart"] : [];
      const seen = () =>
        readFileSync(log, "utf8")
          .trimEnd()
          .split("\n")
          .map((line) => {
            const at = line.indexOf(" ");
            return [line.slice(0, at), JSON.parse(line.slice(at)) as Record<string, unknown>] as const;
          });
      assert.equal(shop.quiet("create", "-b", bundle, id), 0);
      assert.deepEqual(
        seen().map(([kind]) => kind),
        [...kinds.slice(0, 3), ...early],
      );
      const { pid } = JSON.parse(shop.run("state", id).stdout) as { pid: number };
      for (const [kind, state] of seen().slice(0, 3)) {
        assert.deepEqual([state.id, state.status, state.bundle], [id, "creating", bundle]);
        assert.equal(state.pid, kind === "createContainer" ? 1 : pid);
        assert.deepEqual(state.annotations, { colour: "green" });
      }
      assert.equal(shop.run("start", id).status, 0);
      assert.equal(seen().at(-1)?.[0], "poststart");
      assert.deepEqual(
        [seen().at(-1)?.[1].status, seen().at(-1)?.[1].pid],
        [name === "runc" ? "created" : "running", pid],
      );
      assert.equal(shop.run("delete", "-f", id).status, 0);
      assert.deepEqual([seen().at(-1)?.[0], seen().at(-1)?.[1].status], ["poststop", "stopped"]);
    });

    test("a hook that fails: before the start there is no container, after it the container goes", () => {
      const failing = [{ path: "/bin/sh", args: ["sh", "-c", "echo no >&2; exit 3"] }];
      for (const kind of ["prestart", "createRuntime", "createContainer"]) {
        const id = shop.id();
        const { status, stderr } = shop.run(
          "create",
          "-b",
          shop.bundle("true", (spec) => ({ ...spec, hooks: { [kind]: failing } })),
          id,
        );
        assert.equal(status, 1, kind);
        assert.match(stderr, /exit status 3|status 3/, kind);
        assert.equal(shop.run("state", id).status, 1);
        assert.equal(existsSync(`/sys/fs/cgroup/pids/${id}`), false);
      }
      const id = shop.id();
      assert.equal(
        shop.quiet(
          "create",
          "-b",
          shop.bundle("exec sleep 60", (spec) => ({ ...spec, hooks: { poststop: failing } })),
          id,
        ),
        0,
      );
      assert.equal(shop.run("delete", "-f", id).status, 0);
    });

    test("descriptors: only those that are to be preserved", () => {
      const bundle = shop.bundle("ls /proc/self/fd | wc -l".replace(" | wc -l", ""));
      const { stdout } = shop.run("run", "-b", bundle, shop.id());
      // 3 is the directory that ls itself reads.
      assert.equal(stdout, "0\n1\n2\n3\n");
      if (name === "berth-runc")
        assert.equal(shop.run("run", "--preserve-fds", "1", "-b", bundle, shop.id()).status, 1);
      const file = openSync(join(bundle, "config.json"), "r");
      const passed = (variables: string, ...args: readonly string[]) =>
        spawnSync("sh", ["-c", `${variables} exec "$0" "$@"`, path, "--root", shop.root, "run", ...args, shop.id()], {
          encoding: "utf8",
          stdio: ["ignore", "pipe", "pipe", file, file],
        }).stdout;
      assert.equal(passed("", "--preserve-fds", "2", "-b", bundle), "0\n1\n2\n3\n4\n5\n");
      const told = shop.bundle("ls /proc/self/fd; echo $LISTEN_FDS $LISTEN_PID");
      assert.equal(passed("LISTEN_FDS=1 LISTEN_PID=$$", "-b", told), "0\n1\n2\n3\n4\n1 1\n");
      assert.equal(passed("LISTEN_FDS=1 LISTEN_PID=1", "-b", told), "0\n1\n2\n3\n\n");
      closeSync(file);
    });

    test("--plan: every order and what asked for it, and nothing is done", { skip: name === "runc" }, () => {
      const id = shop.id();
      const bundle = shop.bundle("true");
      const { status, stdout } = shop.run("create", "--plan", "-b", bundle, id);
      assert.equal(status, 0);
      assert.match(stdout, /^stage +linux\.cgroupsPath +mkdir /m);
      assert.match(stdout, /^container +process\.args +exec sh -c true$/m);
      const lines = JSON.parse(shop.run("run", "--plan", "--json", "-b", bundle, id).stdout) as { order: string }[];
      assert.equal(lines.at(-1)?.order, "exec");
      assert.equal(shop.run("state", id).status, 1);
    });
  });
}

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries++) {
    assert.ok(tries < 3000, "the condition never came true");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
