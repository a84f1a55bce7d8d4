/** Node labels, as NVIDIA's gpu-feature-discovery makes them of the same NVML, and where they go. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, watch, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import { createServer as createSecureServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, type TestContext, test } from "node:test";
import { parseDuration } from "../src/plugin/nvidia/duration.ts";
import { parseLabelCommand } from "../src/labels/command.ts";
import { byKubeconfig, inCluster, request as ask } from "../src/labels/kube.ts";
import { LabelService } from "../src/labels/service.ts";
import { vgpuLabels } from "../src/labels/vgpu.ts";
import { makeNvml } from "../src/testing/driver-root.ts";

interface Golden {
  readonly nvml: readonly string[];
  readonly config: string;
  readonly flags: readonly string[];
  readonly labels: Record<string, string>;
}

/** What gpu-feature-discovery 0.20 printed. */
const GOLDEN = JSON.parse(readFileSync(new URL("golden/labels.json", import.meta.url), "utf8")) as Golden[];
const silent = { info() {}, warn() {}, error() {} };
const TWO = GOLDEN[0]?.nvml.join("\n") ?? "";

test("durations as Go writes them", () => {
  const given = { "60s": 60_000, "1h30m": 5_400_000, "1.5s": 1500, "100ms": 100, "0": 0, infinite: Infinity };
  for (const [text, ms] of Object.entries(given)) assert.equal(parseDuration(text), ms, text);
  for (const text of ["60", "", "s", "1x", "-1s", "1s "])
    assert.throws(() => parseDuration(text), /invalid duration/, text);
});

describe("labels", () => {
  let dir = "";
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "berth-labels-"));
    makeNvml(join(dir, "driver"));
    process.env["FAKE_NVML"] = join(dir, "nvml.txt");
    writeFileSync(join(dir, "machine"), "PowerEdge R750 (x/y)\n");
    for (const address of ["0000:01:00.0", "0000:02:00.0"]) putPci(join(dir, "pci"), address, {});
  });
  after(() => {
    delete process.env["FAKE_NVML"];
    rmSync(dir, { recursive: true, force: true });
  });

  const settingsOf = (flags: readonly string[]) =>
    parseLabelCommand([
      "--no-timestamp",
      `--machine-type-file=${join(dir, "machine")}`,
      `--driver-root-ctr-path=${join(dir, "driver")}`,
      ...flags,
    ]).readSettings(() => {});
  const TO_STDOUT = ["--use-node-feature-api=false", "--output="];
  /** `pci`: of `dir`. */
  async function printed(nvml: string, flags: readonly string[], pci = "pci"): Promise<Record<string, string>> {
    writeFileSync(join(dir, "nvml.txt"), nvml);
    let text = "";
    const settings = settingsOf(["--oneshot", ...TO_STDOUT, ...flags]);
    const options = { settings, log: silent, print: (more: string) => (text += more), pciDevices: join(dir, pci) };
    const service = await LabelService.start(options);
    assert.ok(service.isDone);
    await service.close();
    const lines = text.split("\n").slice(0, -1);
    return Object.fromEntries(lines.map((line) => line.split("=", 2) as [string, string]));
  }

  test("those of the reference, for GPUs, MIG strategies, sharing and fabrics", async () => {
    assert.ok(GOLDEN.length > 10);
    for (const { nvml, config, flags, labels } of GOLDEN) {
      writeFileSync(join(dir, "config.yaml"), config);
      const own = await printed(nvml.join("\n"), ["--config-file", join(dir, "config.yaml"), ...flags]);
      assert.deepEqual(own, labels, `${nvml.join("; ")} ${flags.join(" ")} ${config}`);
    }
  });

  test("families by compute capability", async () => {
    const families: Record<string, string | undefined> = {
      "3 5": "kepler",
      "7 0": "volta",
      "7 5": "turing",
      "8 6": "ampere",
      "8 9": "ada-lovelace",
      "9 0": "hopper",
      "10 0": "blackwell",
      "12 0": "blackwell",
      "13 0": "rubin",
      "99 1": "undefined",
      "0 0": undefined,
    };
    for (const [compute, family] of Object.entries(families))
      assert.equal((await printed(`${TWO}\ncompute ${compute}`, []))["nvidia.com/gpu.family"], family, compute);
  });

  test("several models: those of the last, and a warning", async () => {
    const labels = await printed(`driver 1.2\ngpu A 0 0:1:0.0 0 NVIDIA A100\ngpu B 1 0:2:0.0 2 NVIDIA T4\n`, []);
    assert.equal(labels["nvidia.com/gpu.product"], "NVIDIA-T4");
    assert.equal(labels["nvidia.com/gpu.count"], "1");
  });

  test("the mode of GPUs is by their class, and virtual ones are known by their configuration", async () => {
    const virtual = Buffer.alloc(256);
    virtual[6] = 0x10;
    virtual[0x34] = 0x68;
    virtual.set([0x05, 0xd0], 0x68);
    virtual.set([0x09, 0x00, 0x1b, 0x56, 0x46, 0x00, 0x16], 0xd0);
    virtual.write("460.16", 0xd7);
    virtual.write("r460_00", 0xe1);
    putPci(join(dir, "vgpu"), "0000:01:00.0", { config: virtual, class: "0x030000" });
    putPci(join(dir, "vgpu"), "0000:02:00.0", { class: "0x030000" });
    const labels = await printed(TWO, [], "vgpu");
    assert.equal(labels["nvidia.com/gpu.mode"], "graphics");
    assert.equal(labels["nvidia.com/vgpu.present"], "true");
    assert.equal(labels["nvidia.com/vgpu.host-driver-version"], "460.16");
    assert.equal(labels["nvidia.com/vgpu.host-driver-branch"], "r460_00");
    putPci(join(dir, "half"), "0000:01:00.0", { config: virtual.subarray(0, 64) });
    putPci(join(dir, "half"), "0000:02:00.0", { class: "0x030000" });
    const half = await printed(TWO, [], "half");
    assert.equal(half["nvidia.com/gpu.mode"], "unknown");
    assert.equal(half["nvidia.com/vgpu.present"], undefined, "no word where it cannot be known");
    assert.throws(() => vgpuLabels(join(dir, "half")), /0000:01:00.0 can be read in part only/);
    assert.equal((await printed(TWO, [], "nowhere"))["nvidia.com/gpu.mode"], "unknown");
  });

  test("what cannot be is refused, or left out where that is asked for", async () => {
    const mps = join(dir, "mps.yaml");
    writeFileSync(mps, "version: v1\nsharing: {mps: {resources: [{name: gpu, replicas: 2}]}}\n");
    const divided = "driver 1.2\ngpu A 0 0:1:0.0 1 A100\n";
    await assert.rejects(printed(divided, ["--config-file", mps]), /MPS sharing is not supported for mig devices/);
    await assert.rejects(
      printed("driver 525\ngpu A 0 0:1:0.0 1 A100\n", []),
      /"525" does not match format "X.Y\[.Z\]"/,
    );
    await assert.rejects(printed(`${TWO}\nfail nvmlInit_v2 9`, []), /nvmlInit_v2/);
    assert.deepEqual(await printed(`${TWO}\nfail nvmlInit_v2 9`, ["--fail-on-init-error=false"]), {
      "nvidia.com/vgpu.present": "false",
    });
    for (const strategy of ["tegra", "vfio"])
      await assert.rejects(
        printed(TWO, [`--device-discovery-strategy=${strategy}`]),
        new RegExp(`labels by ${strategy} are not supported`),
      );
    await assert.rejects(printed(TWO, ["--use-node-feature-api=true"]), /required flag node-name not set/);
    await assert.rejects(
      printed(TWO, ["--use-node-feature-api=true", "--node-name=n", "--namespace="]),
      /required flag namespace not set/,
    );
  });

  test("a file is made whole, again and again, and goes with who made it", async (t) => {
    mkdirSync(join(dir, "features.d"));
    writeFileSync(join(dir, "nvml.txt"), TWO);
    const file = join(dir, "features.d/gfd");
    const settings = settingsOf(["--use-node-feature-api=false", "-o", file, "--sleep-interval=10ms"]);
    const service = await LabelService.start({
      settings,
      log: silent,
      print: assert.fail,
      pciDevices: join(dir, "pci"),
    });
    t.after(() => service.close());
    const lines = readFileSync(file, "utf8");
    assert.match(lines, /^nvidia.com\/cuda.driver-version.full=525.147.05$/m);
    assert.match(lines, /^nvidia.com\/gpu.count=2$/m);
    assert.deepEqual(readdirSync(join(dir, "features.d")), ["gfd"]);
    const { promise, resolve } = Promise.withResolvers<void>();
    const watcher = watch(join(dir, "features.d"), () => {
      if (readFileSync(file, "utf8").includes("gpu.count=1\n")) resolve();
    });
    writeFileSync(join(dir, "nvml.txt"), TWO.split("\n").slice(0, 3).join("\n"));
    await promise;
    watcher.close();
    await service.close();
    assert.deepEqual(readdirSync(join(dir, "features.d")), []);
    const nowhere = settingsOf(["--use-node-feature-api=false", "-o", join(dir, "nowhere/gfd"), "--oneshot"]);
    await assert.rejects(
      LabelService.start({ settings: nowhere, log: silent, print: assert.fail, pciDevices: join(dir, "pci") }),
      /ENOENT.*nowhere/,
    );
  });

  test("the command: once, to the standard output, with the variables of both names", async () => {
    writeFileSync(join(dir, "nvml.txt"), TWO);
    const command = new URL("../../../bin/berth-gpu-feature-discovery", import.meta.url).pathname;
    const child = spawn(command, [], {
      env: {
        ...process.env,
        GFD_ONESHOT: "true",
        GFD_OUTPUT_FILE: "",
        USE_NODE_FEATURE_API: "false",
        CONTAINER_DRIVER_ROOT: join(dir, "driver"),
        GFD_MIG_STRATEGY: "single",
        MIG_STRATEGY: "mixed",
      },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const code = await new Promise((resolve) => child.once("close", resolve));
    assert.equal(code, 0);
    assert.match(output, /^nvidia.com\/gfd.timestamp=\d{10}$/m);
    assert.match(output, /^nvidia.com\/mig.strategy=single$/m);
  });

  test("a NodeFeature object: made, left alone, changed, with its owner, and refusals by their reason", async (t) => {
    writeFileSync(join(dir, "nvml.txt"), TWO);
    const api = await fakeApi(t);
    const kubeconfig = join(dir, "kubeconfig");
    writeFileSync(kubeconfig, kubeconfigOf(api.url));
    const flags = ["--oneshot", "--kubeconfig", kubeconfig, "--node-name=n1", "--namespace=gpu", "--pod-name=p1"];
    const label = async (...more: string[]): Promise<void> => {
      const settings = settingsOf([...flags, ...more]);
      const pciDevices = join(dir, "pci");
      const service = await LabelService.start({ settings, log: silent, print: assert.fail, pciDevices });
      await service.close();
    };
    await label();
    const path = "/apis/nfd.k8s-sigs.io/v1alpha1/namespaces/gpu/nodefeatures";
    assert.deepEqual(api.asked.splice(0), [
      "GET /api/v1/namespaces/gpu/pods/p1",
      `GET ${path}/nvidia-features-for-n1`,
      `POST ${path}`,
    ]);
    const made = api.objects.get("nvidia-features-for-n1") as unknown as Record<string, Record<string, unknown>>;
    assert.equal(made["kind"], "NodeFeature");
    assert.deepEqual(made["metadata"]?.["labels"], { "nfd.node.kubernetes.io/node-name": "n1" });
    assert.deepEqual(made["metadata"]?.["ownerReferences"], [
      { apiVersion: "apps/v1", kind: "DaemonSet", name: "gfd", uid: "u-set", controller: true },
      { apiVersion: "v1", kind: "Pod", name: "p1", uid: "u-pod" },
    ]);
    assert.deepEqual(made["spec"]?.["features"], { flags: {}, attributes: {}, instances: {} });
    assert.deepEqual(made["spec"]?.["labels"], GOLDEN[0]?.labels);
    await label();
    assert.deepEqual(
      api.asked.splice(0).map((line) => line.split(" ", 1)[0]),
      ["GET", "GET"],
      "nothing has changed",
    );
    await label("--mig-strategy=single");
    assert.equal(api.asked.at(-1), `PUT ${path}/nvidia-features-for-n1`);
    const changed = api.objects.get("nvidia-features-for-n1")?.["metadata"];
    assert.equal((changed as { resourceVersion?: string } | undefined)?.resourceVersion, "2");
    api.refuse = true;
    await assert.rejects(
      label(),
      /failed to get NodeFeature nvidia-features-for-n1: nodefeatures is forbidden \(403\)/,
    );
    assert.ok(api.tokens.every((token) => token === "Bearer secret"));
  });

  test("a pod's API server is the one that its account's authority vouches for", async (t) => {
    const account = join(dir, "tls");
    mkdirSync(account);
    const subject = ["-subj", "/CN=api", "-addext", "subjectAltName=IP:127.0.0.1"];
    const files = ["-keyout", join(account, "key.pem"), "-out", join(account, "ca.crt")];
    const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    const made = spawnSync("openssl", ["req", "-x509", "-days", "2", ...curve, ...subject, ...files], {
      encoding: "utf8",
    });
    assert.equal(made.status, 0, made.stderr);
    writeFileSync(join(account, "token"), "secret");
    const options = { key: readFileSync(join(account, "key.pem")), cert: readFileSync(join(account, "ca.crt")) };
    const server = createSecureServer(options, (request, response) => {
      response.end(JSON.stringify({ path: request.url, token: request.headers.authorization }));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
    const port = String((server.address() as AddressInfo).port);
    const access = inCluster({ KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: port }, account);
    const answer = await ask(access, "GET", "/api");
    assert.deepEqual(answer, { status: 200, body: { path: "/api", token: "Bearer secret" } });
    await assert.rejects(ask({ ...access, authority: undefined }, "GET", "/api"), /GET https:.*\/api: .*self.signed/);
  });

  test("where the API server is: a pod's own account, or a file, whose programs are refused", () => {
    const account = join(dir, "account");
    mkdirSync(account);
    writeFileSync(join(account, "ca.crt"), "CA");
    writeFileSync(join(account, "token"), "one\n");
    const access = inCluster({ KUBERNETES_SERVICE_HOST: "fd00::1", KUBERNETES_SERVICE_PORT: "443" }, account);
    assert.equal(access.server, "https://[fd00::1]:443");
    assert.equal(access.token(), "one");
    writeFileSync(join(account, "token"), "two\n");
    assert.equal(access.token(), "two", "tokens change");
    assert.throws(() => inCluster({}, account), /KUBERNETES_SERVICE_HOST is not set/);
    const file = join(dir, "kubeconfig-2");
    writeFileSync(file, kubeconfigOf("https://x/", "exec: {command: login}"));
    assert.throws(() => byKubeconfig(file), /a user's "exec" is not supported/);
    writeFileSync(file, kubeconfigOf("https://x/", "client-certificate-data: Q0VSVA==\n    client-key-data: S0VZ"));
    const { certificate, key, server, token } = byKubeconfig(file);
    assert.deepEqual([String(certificate), String(key), server, token()], ["CERT", "KEY", "https://x", undefined]);
    writeFileSync(file, "current-context: none\ncontexts: []\n");
    assert.throws(() => byKubeconfig(file), /contexts has no "none"/);
  });
});

function putPci(root: string, address: string, { config = Buffer.alloc(256), class: kind = "0x030200" }): void {
  const device = join(root, address);
  mkdirSync(device, { recursive: true });
  writeFileSync(join(device, "vendor"), "0x10de\n");
  writeFileSync(join(device, "class"), `${kind}\n`);
  writeFileSync(join(device, "config"), config);
}

const kubeconfigOf = (server: string, user = "token: secret"): string => `apiVersion: v1
kind: Config
current-context: c
contexts:
- name: c
  context: {cluster: k, user: u}
clusters:
- name: k
  cluster: {server: ${server}}
users:
- name: u
  user:
    ${user}
`;

/** As much of an API server as one pod of a DaemonSet and objects of one kind take. */
async function fakeApi(t: TestContext) {
  const state = {
    url: "",
    asked: [] as string[],
    tokens: [] as (string | undefined)[],
    objects: new Map<string, Record<string, unknown>>(),
    refuse: false,
  };
  const server = createServer((request, response) => {
    state.asked.push(`${request.method} ${request.url}`);
    state.tokens.push(request.headers.authorization);
    const answer = (code: number, body: object): void =>
      void response.writeHead(code, { "content-type": "application/json" }).end(JSON.stringify(body));
    if (request.url?.includes("/pods/"))
      return answer(200, {
        metadata: {
          uid: "u-pod",
          ownerReferences: [{ apiVersion: "apps/v1", kind: "DaemonSet", name: "gfd", uid: "u-set" }],
        },
      });
    if (state.refuse) return answer(403, { kind: "Status", message: "nodefeatures is forbidden" });
    const name = "nvidia-features-for-n1";
    const found = state.objects.get(name);
    if (request.method === "GET") return found ? answer(200, found) : answer(404, { message: "not found" });
    void bodyOf(request).then((body) => {
      const version = request.method === "POST" ? "1" : "2";
      const metadata = { ...(body["metadata"] as object), resourceVersion: version };
      state.objects.set(name, { ...body, metadata });
      answer(request.method === "POST" ? 201 : 200, body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  state.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return state;
}

async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return JSON.parse(Buffer.concat(chunks).toString()) as Record<string, unknown>;
}
