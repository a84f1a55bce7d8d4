/** What runs while a container is made: hooks, and whoever takes system calls over (seccomp's listener). */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { compileSeccomp } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { container, machine, ownRootfs, scratch, useMachine } from "./support/containers.ts";
import { shellSpec, withLinux, withProcess } from "./support/machine.ts";

useMachine();

container("hooks: each in its place, in order, with the state it is promised", async () => {
  const directory = await scratch("hooks");
  const rootfs = await ownRootfs();
  const hook = (name: string, script: string): oci.Hook => ({
    path: "/bin/sh",
    args: ["sh", "-c", script],
    env: [`OUT=${directory}/${name}`, "PATH=/usr/bin:/bin"],
    timeout: 10,
  });
  const record =
    "cat >$OUT.json; readlink /proc/self/ns/net >$OUT.net; ls -d /usr/bin >$OUT.ls 2>&1; date +%s%N >$OUT.time";
  const spec: oci.Spec = {
    ...shellSpec("cat /hooked; echo main"),
    annotations: { "org.example": 'quote"d' },
    hooks: {
      prestart: [hook("prestart", record)],
      createRuntime: [hook("runtime", record)],
      createContainer: [hook("container", `${record}; echo hooked >${rootfs.path}/hooked`)],
      startContainer: [
        { path: "/bin/sh", args: ["sh", "-c", "cat >/start.json; readlink /proc/self/ns/net >>/start.json"] },
      ],
    },
  };
  const { stdout, state } = await machine().run("", () => spec, { rootfs, id: "hooked", bundle: "/a/bundle" });
  assert.deepEqual([state.code, stdout], [0, "hooked\nmain\n"]);
  const read = async (name: string) => JSON.parse(await readFile(join(directory, `${name}.json`), "utf8")) as oci.State;
  const net = async (name: string) => await readFile(join(directory, `${name}.net`), "utf8");
  const runtime = await read("runtime");
  assert.deepEqual(runtime, {
    ociVersion: "1.3.0",
    id: "hooked",
    status: "creating",
    pid: runtime.pid,
    bundle: "/a/bundle",
    annotations: { "org.example": 'quote"d' },
  });
  assert.ok((runtime.pid ?? 0) > 1, "the host's number");
  assert.deepEqual(await read("prestart"), runtime);
  assert.equal((await read("container")).pid, 1, "the container's number");
  const own = execFileSync("readlink", ["/proc/self/ns/net"]).toString();
  assert.equal(await net("runtime"), own);
  assert.notEqual(await net("container"), own);
  const times = await Promise.all(
    ["prestart", "runtime", "container"].map((name) => readFile(join(directory, `${name}.time`), "utf8")),
  );
  assert.deepEqual(times, times.toSorted(), "in order");
  const start = await readFile(join(rootfs.path, "start.json"), "utf8");
  assert.match(start, /"status":"created","pid":1,.*\nnet:|"status":"created","pid":1,.*net:/);
});

container("hooks that fail, or hang, name themselves and leave nothing", async () => {
  const failing = (kind: keyof oci.Hooks, script: string, timeout?: number): oci.Spec => ({
    ...shellSpec("true"),
    hooks: { [kind]: [{ path: "/bin/sh", args: ["sh", "-c", script], timeout }] },
  });
  for (const kind of ["prestart", "createRuntime", "createContainer"] as const) {
    await assert.rejects(
      machine().create(failing(kind, "echo why >&2; exit 3")),
      new RegExp(`run hook sh .*hooks\\.${kind}\\[0\\]\\): EIO: /bin/sh ended with status 3: why`),
    );
  }
  await assert.rejects(
    machine().create(failing("createRuntime", "sleep 60", 1)),
    /ETIMEDOUT: .*did not end within 1000 ms/,
  );
  const running = await machine().create(failing("startContainer", "exit 4"));
  try {
    await assert.rejects(
      running.link.start(),
      /^OrderError: run hook sh .*hooks\.startContainer\[0\]\): EIO: .*status 4/,
    );
  } finally {
    await machine().end(running);
  }
});

/** Takes one descriptor and the state with it, answers every call with EBADF's opposite: "as if it had been done". */
const AGENT = `
import ctypes, json, os, socket, struct, sys, fcntl
path = sys.argv[1]
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(path); server.listen(1)
print("ready", flush=True)
connection, _ = server.accept()
data, fds, _, _ = socket.recv_fds(connection, 65536, 1)
print(data.decode(), flush=True)
RECV, SEND = 0xc0502100, 0xc0182101
buffer = bytearray(80)
fcntl.ioctl(fds[0], RECV, buffer)
identifier, pid = struct.unpack_from("QI", buffer)
answer = bytearray(struct.pack("QqiI", identifier, 0, -123, 0))
fcntl.ioctl(fds[0], SEND, answer)
`;

for (const noNewPrivileges of [true, false]) {
  container(`seccomp: a listener is handed over and answers (no_new_privs ${noNewPrivileges})`, async (t) => {
    try {
      execFileSync("python3", ["-c", "import socket; socket.recv_fds"], { stdio: "pipe" });
    } catch {
      return t.skip("needs python3 of 3.9 or later for the listener");
    }
    const directory = await scratch("listener");
    const path = join(directory, "agent.sock");
    const profile: oci.LinuxSeccomp = {
      defaultAction: "SCMP_ACT_ALLOW",
      flags: ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
      listenerPath: path,
      listenerMetadata: "meta",
      syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_NOTIFY" }],
    };
    const seccomp = await compileSeccomp(profile);
    const agent = machine().hand.spawn(
      { argv: ["/usr/bin/env", "python3", "-c", AGENT, path], env: { PATH: "/usr/bin:/bin" } },
      { timeoutMs: 120_000 },
    );
    for (let tries = 0; tries < 3000 && !(await exists(path)); tries++)
      await new Promise((done) => setTimeout(done, 20));
    const spec = withLinux({ seccomp: profile })(
      withProcess({ noNewPrivileges })(shellSpec("mkdir /made 2>&1 | grep -o 'No medium'; true")),
    );
    const { stdout } = await machine().run("", () => spec, { seccomp, id: "heard", bundle: "/b" });
    const { stdout: said, stderr, status } = await agent;
    assert.equal(status, 0, Buffer.from(stderr).toString());
    assert.equal(stdout, "No medium\n", "errno 123, as the listener said");
    const state = JSON.parse(Buffer.from(said).toString().split("\n")[1] ?? "") as Record<string, unknown>;
    assert.deepEqual([state["fds"], state["metadata"]], [["seccompFd"], "meta"]);
    assert.deepEqual(state["state"], {
      ociVersion: "1.3.0",
      id: "heard",
      status: "creating",
      pid: state["pid"],
      bundle: "/b",
    });
    assert.ok(Number(state["pid"]) > 1);
  });
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
