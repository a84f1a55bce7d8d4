/** Who may talk to berthd, and what a pod's own words may do to the node. Needs root. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, existsSync, lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename, dirname } from "node:path";
import { after, before, describe, test } from "node:test";
import { TestDaemon } from "./support/daemon.ts";
import { createContainer, exited, runPod, sh, startContainer, status } from "./support/pods.ts";

const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
/** Every annotation goes to the configuration of the container, which hooks and other runtimes read. */
const CONFIG = `version = 3
${["berth", "by-binary"].map((name) => `[${RUNTIMES}.${name}]\npod_annotations = ["*"]\ncontainer_annotations = ["*"]`).join("\n")}
[${RUNTIMES}.by-binary.options]
BinaryName = "runc"
`;
const SLEEP = "while :; do sleep 1000; done";
const NOBODY = 65_534;

let daemon: TestDaemon;
before(async () => {
  daemon = await TestDaemon.start({ config: CONFIG });
  // As /run is for everybody: what is below has to keep others out by itself.
  chmodSync(daemon.dir, 0o711);
});
after(() => daemon[Symbol.asyncDispose]());

/** What connect(2) says to a process of nobody's. */
async function asNobody(path: string): Promise<string> {
  const script = `require("node:net").connect(${JSON.stringify(basename(path))}, () => { console.log("connected"); process.exit() }).on("error", (error) => console.log(error.code))`;
  const child = spawn(process.execPath, ["-e", script], {
    // A socket's path has at most 107 bytes.
    cwd: dirname(path),
    uid: NOBODY,
    gid: NOBODY,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  for await (const chunk of child.stdout) output += String(chunk);
  return output.trim();
}

function* socketsBelow(dir: string): Generator<string> {
  for (const name of readdirSync(dir, { recursive: true }).map(String))
    if (lstatSync(`${dir}/${name}`).isSocket()) yield `${dir}/${name}`;
}

describe("who may talk to berthd", () => {
  test("its sockets, bosun's and the monitors' are root's alone", async () => {
    const pod = await runPod(daemon);
    await startContainer(daemon, pod, SLEEP);
    const { mode, uid, gid } = lstatSync(daemon.socket);
    assert.deepEqual([mode & 0o777, uid, gid], [0o600, 0, 0]);
    const sockets = [...socketsBelow(daemon.state)];
    assert.ok(sockets.length >= 3, sockets.join());
    for (const path of sockets) assert.equal(await asNobody(path), "EACCES", path);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("grpc.gid lets a group in, and no one else", async () => {
    const config = `version = 2\n[grpc]\ngid = ${NOBODY}\n`;
    await using own = await TestDaemon.start({ config });
    chmodSync(own.dir, 0o711);
    const { mode, uid, gid } = lstatSync(own.socket);
    assert.deepEqual([mode & 0o777, uid, gid], [0o660, 0, NOBODY]);
    assert.equal(await asNobody(own.socket), "connected");
    assert.equal(await asNobody(`${own.state}/serve.sock`), "EACCES");
  });

  test("the one port that listens is the streaming server's, on loopback", async () => {
    const pod = await runPod(daemon);
    const containerId = await startContainer(daemon, pod, SLEEP);
    const { url } = await daemon.client.runtime.exec({ containerId, cmd: ["true"], stdout: true });
    const inodes = new Set(
      readdirSync(`/proc/${daemon.pid}/fd`).map(
        (fd) => /socket:\[(\d+)\]/.exec(link(`/proc/${daemon.pid}/fd/${fd}`))?.[1],
      ),
    );
    const LISTEN = "0A";
    const listening = ["tcp", "tcp6"].flatMap((family) =>
      readFileSync(`/proc/${daemon.pid}/net/${family}`, "utf8")
        .trim()
        .split("\n")
        .slice(1)
        .map((line) => line.trim().split(/\s+/))
        .filter((fields) => fields[3] === LISTEN && inodes.has(fields[9]))
        .map((fields) => fields[1]),
    );
    const port = Number(new URL(url).port).toString(16).toUpperCase().padStart(4, "0");
    assert.deepEqual(listening, [`0100007F:${port}`]);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("tokens cannot be guessed, and none comes twice", async () => {
    const pod = await runPod(daemon);
    const containerId = await startContainer(daemon, pod, SLEEP);
    const tokens = new Set<string>();
    for (let i = 0; i < 200; i++) {
      const { url } = await daemon.client.runtime.exec({ containerId, cmd: ["true"], stdout: true });
      tokens.add(url.split("/").at(-1) ?? "");
    }
    assert.equal(tokens.size, 200);
    for (const token of tokens) assert.ok(Buffer.from(token, "base64url").length >= 16, token);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });
});

function link(path: string): string {
  try {
    return readlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

describe("a pod's own words", () => {
  for (const handler of ["berth", "by-binary"])
    test(`${handler}: annotations, labels, environment and arguments reach no shell and no path`, async () => {
      const marker = `${daemon.dir}/pwned`;
      const hostile = [
        `$(touch ${marker})`,
        `\`touch ${marker}\``,
        `; touch ${marker} #`,
        `| touch ${marker}`,
        `\n touch ${marker}\n`,
        `../../../../../../..${marker}`,
        `%s%n %p`,
        `"},"hooks":{"prestart":[{"path":"/bin/touch","args":["touch","${marker}"]}]},"x":{"`,
        "\u0000\u001b[2J",
        "a".repeat(100_000),
      ];
      const names = [
        "example.com/a",
        "io.kubernetes.cri.container-name",
        "io.kubernetes.cri.sandbox-id",
        "run.oci.handler",
      ];
      const words = Object.fromEntries(hostile.map((text, index) => [`${names[index % names.length]}-${index}`, text]));
      const labels = Object.fromEntries(hostile.map((text, index) => [`label-${index}`, text]));
      const pod = await runPod(daemon, { annotations: words, labels }, handler);
      const options = {
        annotations: words,
        labels,
        envs: hostile.map((value, index) => ({
          key: `WORD_${index}`,
          value: Buffer.from(value.replaceAll("\u0000", "")),
        })),
        args: hostile.map((value) => value.replaceAll("\u0000", "")),
      };
      const id = await startContainer(daemon, pod, SLEEP, options);
      assert.equal(await sh(daemon, id, 'printf %s "$WORD_0"'), hostile[0]);
      const seen = await status(daemon, id);
      assert.deepEqual([seen.annotations, seen.labels], [words, labels]);
      const { stdout } = await daemon.client.runtime.execSync({
        containerId: id,
        cmd: ["echo", ...hostile.slice(0, 7)],
        timeout: 10n,
      });
      assert.equal(Buffer.from(stdout).toString(), `${hostile.slice(0, 7).join(" ")}\n`);
      const ends = await startContainer(daemon, pod, "exit 0", options);
      assert.equal((await exited(daemon, ends)).exitCode, 0);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      assert.ok(!existsSync(marker));
    });

  test("names that are paths are refused, or stay names", async () => {
    const outside = `${daemon.dir}/outside`;
    const up = `../../../../../../../..${outside}`;
    await assert.rejects(runPod(daemon, {}, up), /runtime_handler/);
    for (const hostname of [up, "a\nb", "$(id)"])
      await runPod(daemon, { hostname }).then(
        (pod) => daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id }),
        (error: Error) => assert.match(error.message, /hostname/),
      );
    const pod = await runPod(daemon, { metadata: { name: up, namespace: up, uid: up, attempt: 0 } });
    const id = await createContainer(daemon, pod, "exit 0", { metadata: { name: up, attempt: 0 } });
    await daemon.client.runtime.startContainer({ containerId: id });
    assert.equal((await exited(daemon, id)).exitCode, 0);
    const { runtime } = daemon.client;
    for (const named of [up, `../${id}`, `${id}/..`, "", "."]) {
      await assert.rejects(runtime.containerStatus({ containerId: named }), /not found|container_id/, named);
      await assert.rejects(runtime.execSync({ containerId: named, cmd: ["true"] }), /not found|container_id/, named);
      await runtime.removeContainer({ containerId: named });
      await runtime.removePodSandbox({ podSandboxId: named });
    }
    await runtime.removePodSandbox({ podSandboxId: pod.id });
    assert.ok(!existsSync(outside));
  });
});
