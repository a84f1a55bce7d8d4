/**
 * What ./quickstart does through berthd's socket.
 *
 *   quickstart.ts up SOCKET IMAGE    runs a pod, shows its log, its IP and a command inside it
 *   quickstart.ts pods SOCKET        prints the names of all pods but the quickstart's own
 *   quickstart.ts down SOCKET        removes every pod; prints the daemon's pid, root and state
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { connect, type Client } from "@berth/cli";
import { cri } from "@berth/spec";

const LABELS = { "app.kubernetes.io/managed-by": "berth-quickstart" };
const { POD, CONTAINER } = cri.NamespaceMode;
/** As the kubelet asks for it: network and IPC are the pod's, processes see their own container. */
const LINUX = { securityContext: { namespaceOptions: { network: POD, pid: CONTAINER, ipc: POD } } };
const GREETING = "hello from a pod";
/** Long enough for a machine under load; the first line of a log takes a few milliseconds. */
const LOG_LIMIT_MS = 10_000;

async function up(client: Client, image: string): Promise<void> {
  for (const pod of (await client.runtime.listPodSandbox({ filter: { labelSelector: LABELS } })).items) {
    await client.runtime.removePodSandbox({ podSandboxId: pod.id });
  }
  const { logRoot } = await client.berth.info({});
  const name = "quickstart";
  const sandbox = {
    metadata: { name, namespace: "default", uid: name, attempt: 0 },
    hostname: name,
    logDirectory: join(logRoot, name),
    labels: LABELS,
    linux: LINUX,
  };
  const began = performance.now();
  const { podSandboxId } = await client.runtime.runPodSandbox({ config: sandbox });
  const { containerId } = await client.runtime.createContainer({
    podSandboxId,
    sandboxConfig: sandbox,
    config: {
      metadata: { name: "hello", attempt: 0 },
      image: { image },
      command: ["sh", "-c", `echo "${GREETING}, on $(hostname)"; exec sleep 2147483647`],
      logPath: "hello.log",
      labels: LABELS,
      linux: LINUX,
    },
  });
  await client.runtime.startContainer({ containerId });
  const took = performance.now() - began;
  const { status } = await client.runtime.podSandboxStatus({ podSandboxId });
  const { stdout, stderr, exitCode } = await client.runtime.execSync({
    containerId,
    cmd: ["ip", "-4", "-o", "addr", "show", "eth0"],
    timeout: 10n,
  });
  if (exitCode !== 0) throw new Error(`ip in the container ended with ${exitCode}: ${Buffer.from(stderr).toString()}`);
  console.log(`  a pod in three calls    ${podSandboxId.slice(0, 12)}, ${took.toFixed(0)} ms`);
  console.log(`  its log                 ${await firstLine(join(sandbox.logDirectory, "hello.log"))}`);
  console.log(`  its IP                  ${status?.network?.ip}`);
  console.log(
    `  "ip addr" inside it     ${Buffer.from(stdout)
      .toString()
      .trim()
      .replaceAll(/[\s\\]+/g, " ")}`,
  );
  console.log(`CONTAINER ${containerId.slice(0, 12)}`);
}

/** The content of a CRI log's first line: "TIME STREAM TAG CONTENT". */
async function firstLine(path: string): Promise<string> {
  for (const deadline = performance.now() + LOG_LIMIT_MS; performance.now() < deadline;) {
    const match = /^\S+ stdout F (.*)$/m.exec(await readFile(path, "utf8"));
    if (match?.[1] !== undefined) return match[1];
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`${path}: no line within ${LOG_LIMIT_MS / 1000} s`);
}

async function others(client: Client): Promise<void> {
  for (const { metadata, labels } of (await client.runtime.listPodSandbox({})).items) {
    const ours = Object.entries(LABELS).every(([name, value]) => labels[name] === value);
    if (!ours) console.log(`${metadata?.namespace}/${metadata?.name}`);
  }
}

async function down(client: Client): Promise<void> {
  for (const { id } of (await client.runtime.listPodSandbox({})).items) {
    await client.runtime.stopPodSandbox({ podSandboxId: id });
    await client.runtime.removePodSandbox({ podSandboxId: id });
  }
  const { pid, root, state } = await client.berth.info({});
  console.log(pid, root, state);
}

const [verb, socket = "", image = ""] = process.argv.slice(2);
using client = connect(socket);
if (verb === "up") await up(client, image);
else if (verb === "pods") await others(client);
else if (verb === "down") await down(client);
else throw new Error(`quickstart.ts: unknown verb ${verb}`);
