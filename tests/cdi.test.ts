/** CDI through berthd: the document's mock devices of eight, asked for by the CRI, by annotation and by `berth run`. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { type ContainerEdits, parseCdiSpec } from "@berth/cdi";
import { connect } from "@berth/cli";
import { DevicePlugin, parseConfig } from "@berth/gpu";
import * as deviceplugin from "@berth/spec/device-plugin";
import { status as codes } from "@grpc/grpc-js";
import { FakeKubelet } from "@berth/gpu/testing";
import { checkout, IMAGE, run, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { containerConfig, createContainer, runPod, sh, startContainer } from "./support/pods.ts";

const EIGHT = Array.from({ length: 8 }, (_, index) => `device_${index}`);
const SCRIPT = `#!/bin/sh
for directory in /dev /dev/mock; do
  if [ -d "$directory" ]; then ls "$directory"; fi
done
`;

/** The host's files of the document, below `dir`, and its specification with their paths. */
async function mockHost(dir: string): Promise<void> {
  for (const folder of ["dev", "so", "bin", "cdi"]) mkdirSync(`${dir}/mock/${folder}`, { recursive: true });
  for (const name of EIGHT) {
    await run(["mknod", `${dir}/mock/dev/${name}`, "c", "89", "1"]);
    writeFileSync(`${dir}/mock/so/${name}.so`, name);
  }
  writeFileSync(`${dir}/mock/bin/list_device.sh`, SCRIPT, { mode: 0o755 });
  const published = readFileSync(`${checkout}/packages/cdi/test/fixtures/mock.yaml`, "utf8");
  const text = published
    .replaceAll('hostPath: "/dev/mock/', `hostPath: "${dir}/mock/dev/`)
    .replaceAll('hostPath: "/mock/', `hostPath: "${dir}/mock/`);
  writeFileSync(`${dir}/mock/cdi/mock.yaml`, text);
}

/** The files and nodes of the published NVIDIA specification below `host`, and it with their paths and berth's hook program. */
async function nvidiaHost(host: string, file: string): Promise<void> {
  const spec = parseCdiSpec(readFileSync(`${checkout}/packages/cdi/test/fixtures/nvidia.yaml`, "utf8"));
  const folderOf = (path: string): string => path.replace(/\/[^/]*$/, "");
  const moved = async (edits: ContainerEdits): Promise<ContainerEdits> => {
    for (const [minor, { path }] of (edits.deviceNodes ?? []).entries()) {
      mkdirSync(folderOf(host + path), { recursive: true });
      if (!existsSync(host + path)) await run(["mknod", host + path, "c", "195", String(minor)]);
    }
    for (const { hostPath } of edits.mounts ?? []) {
      mkdirSync(folderOf(host + hostPath), { recursive: true });
      writeFileSync(host + hostPath, hostPath);
    }
    return {
      ...edits,
      deviceNodes: (edits.deviceNodes ?? []).map((node) => ({ ...node, hostPath: host + node.path })),
      mounts: (edits.mounts ?? []).map((mount) => ({ ...mount, hostPath: host + mount.hostPath })),
      hooks: (edits.hooks ?? []).map((hook) => ({ ...hook, path: `${checkout}/.build/native/cdi-hook` })),
    };
  };
  const devices = [];
  for (const device of spec.devices) devices.push({ ...device, containerEdits: await moved(device.containerEdits) });
  const containerEdits = await moved(spec.containerEdits ?? {});
  const library = `${host}/usr/lib/x86_64-linux-gnu/libcuda.so.525.147.05`;
  await run(["gcc", "-shared", "-nostdlib", "-x", "c", "/dev/null", "-Wl,-soname,libcuda.so.1", "-o", library]);
  writeFileSync(file, JSON.stringify({ ...spec, devices, containerEdits }));
}

describe("devices by CDI", () => {
  let daemon: TestDaemon;
  before(async () => {
    daemon = await TestDaemon.start();
    await mockHost(daemon.dir);
    const dirs = `cdi_spec_dirs = ["${daemon.dir}/none", "${daemon.dir}/mock/cdi"]\n`;
    await daemon.reload(`version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n${dirs}`);
  });
  after(() => daemon[Symbol.asyncDispose]());

  test("a container with four devices of eight sees these four, their files and the script; the next sees others", async () => {
    const pod = await runPod(daemon);
    const named = (numbers: readonly number[]) => numbers.map((number) => ({ name: `mock.com/gpu=device_${number}` }));
    const first = await startContainer(daemon, pod, "sleep 1000", { CDIDevices: named([0, 1, 6, 7]) });
    assert.equal(await sh(daemon, first, "ls /dev/mock"), "device_0\ndevice_1\ndevice_6\ndevice_7\n");
    assert.equal(await sh(daemon, first, "ls /mock/so"), "device_0.so\ndevice_1.so\ndevice_6.so\ndevice_7.so\n");
    assert.match(
      await sh(daemon, first, "/usr/local/bin/list_device.sh"),
      /\nmock\n(.*\n)*device_0\ndevice_1\ndevice_6\ndevice_7\n$/,
    );
    assert.equal(await sh(daemon, first, "cat /mock/so/device_6.so"), "device_6");
    assert.equal(await sh(daemon, first, "stat -c '%F %t:%T' /dev/mock/device_0"), "character special file 59:1\n");
    await assert.rejects(sh(daemon, first, "echo > /mock/so/device_6.so"), /Read-only file system/);
    // Read and write are allowed, so what is missing is the driver; the next minor number is another device.
    await assert.rejects(sh(daemon, first, "cat /dev/mock/device_0"), /No such device or address/);
    await assert.rejects(sh(daemon, first, "mknod /tmp/other c 89 2; cat /tmp/other"), /Operation not permitted/);
    const second = await startContainer(daemon, pod, "sleep 1000", { CDIDevices: named([2, 3, 5]) });
    assert.equal(await sh(daemon, second, "ls /dev/mock"), "device_2\ndevice_3\ndevice_5\n");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("annotations name devices too; one that both name is there once", async () => {
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, "sleep 1000", {
      CDIDevices: [{ name: "mock.com/gpu=device_3" }],
      annotations: { "cdi.k8s.io/mock_1": "mock.com/gpu=device_3,mock.com/gpu=device_4", "example.com/other": "x" },
    });
    assert.equal(await sh(daemon, id, "ls /dev/mock"), "device_3\ndevice_4\n");
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("berth run --device", async () => {
    const berth = [`${checkout}/bin/berth`, "--address", daemon.socket];
    const device = ["--device", "mock.com/gpu=device_2"];
    assert.equal(
      await run([...berth, "run", "--rm", ...device, IMAGE, "ls", "/dev/mock", "/mock/so"]),
      "/dev/mock:\ndevice_2\n\n/mock/so:\ndevice_2.so\n",
    );
    await assert.rejects(
      run([...berth, "run", "--rm", "--device", "mock.com/gpu=device_8", IMAGE, "true"]),
      /unresolvable CDI devices mock\.com\/gpu=device_8/,
    );
  });

  test("what cannot be injected fails the call by name, and leaves nothing", async () => {
    const pod = await runPod(daemon);
    const nothing = await inventory(daemon);
    const specs = `${daemon.dir}/mock/cdi`;
    const device = (name: string) => ({ CDIDevices: [{ name }] });
    const fails = async (more: object, code: number, words: RegExp) => {
      await assert.rejects(createContainer(daemon, pod, "true", more), (error: { code?: number; message: string }) => {
        assert.equal(error.code, code, error.message);
        assert.match(error.message, words);
        return true;
      });
      await assertNothingLeft(daemon, nothing);
    };
    await fails(
      device("/dev/null"),
      codes.INVALID_ARGUMENT,
      /config\.CDI_devices\[0\]: unqualified device "\/dev\/null"/,
    );
    await fails(
      { annotations: { "cdi.k8s.io/a": "mock.com/gpu=device_0,x" } },
      codes.INVALID_ARGUMENT,
      /annotation "cdi\.k8s\.io\/a": invalid CDI device name "x"/,
    );
    await fails(
      device("mock.com/gpu=device_9"),
      codes.FAILED_PRECONDITION,
      /unresolvable CDI devices mock\.com\/gpu=device_9/,
    );
    // A node that has gone since its specification was written.
    rmSync(`${daemon.dir}/mock/dev/device_5`);
    writeFileSync(
      `${specs}/gone.json`,
      JSON.stringify({
        cdiVersion: "0.5.0",
        kind: "gone.com/gpu",
        devices: [
          {
            name: "a",
            containerEdits: { deviceNodes: [{ path: "/dev/g", hostPath: `${daemon.dir}/mock/dev/device_5` }] },
          },
        ],
      }),
    );
    await fails(
      device("gone.com/gpu=a"),
      codes.FAILED_PRECONDITION,
      /gone\.json: device "gone\.com\/gpu=a": deviceNodes "\/dev\/g": failed to stat CDI host device/,
    );
    // A mount whose source is not there fails in the middle of making the container, which is then taken apart.
    writeFileSync(
      `${specs}/mount.yaml`,
      "cdiVersion: 0.3.0\nkind: mount.com/gpu\ndevices:\n- name: a\n  containerEdits:\n    mounts:\n    - {hostPath: /no/such/library.so, containerPath: /l.so, options: [ro, bind]}\n",
    );
    await fails(
      device("mount.com/gpu=a"),
      codes.UNKNOWN,
      /mount\.yaml: device "mount\.com\/gpu=a": mounts "\/l\.so": .*\/no\/such\/library\.so/,
    );
    // A field that no version has, and a path that leaves its directory: read as errors, with their place.
    const odd = (name: string, edits: string): void =>
      writeFileSync(
        `${specs}/${name}.yaml`,
        `cdiVersion: 0.5.0\nkind: ${name}.com/gpu\ndevices:\n- name: a\n  containerEdits:\n    ${edits}\n`,
      );
    odd("field", "deviceNodes: [{path: /dev/g, hostpath: /dev/null}]");
    await fails(
      device("field.com/gpu=a"),
      codes.FAILED_PRECONDITION,
      /field\.yaml:6:\d+: device "field\.com\/gpu=a": devices\[0\]\.containerEdits\.deviceNodes\[0\]\.hostpath: unknown field/,
    );
    odd("climb", "mounts: [{hostPath: /opt/../etc/shadow, containerPath: /x}]");
    await fails(
      device("climb.com/gpu=a"),
      codes.FAILED_PRECONDITION,
      /climb\.yaml:6:\d+: device "climb\.com\/gpu=a": devices\[0\]\.containerEdits\.mounts\[0\]\.hostPath: .* climbs/,
    );
    // Half a file, and a kind that two files claim.
    writeFileSync(
      `${specs}/half.yaml`,
      "cdiVersion: 0.5.0\nkind: half.com/gpu\ndevices:\n- name: a\n  containerEdits:\n    mounts: [",
    );
    await fails(device("half.com/gpu=a"), codes.FAILED_PRECONDITION, /half\.yaml:6:14/);
    writeFileSync(`${specs}/twice.yaml`, readFileSync(`${specs}/mock.yaml`));
    await fails(
      device("mock.com/gpu=device_0"),
      codes.FAILED_PRECONDITION,
      /conflicting device "mock\.com\/gpu=device_0" \(specs ".*twice\.yaml", ".*mock\.yaml"\)/,
    );
    assert.match(daemon.log, /cdi specification: .*half\.yaml:6:14/);
    for (const name of ["gone.json", "mount.yaml", "field.yaml", "climb.yaml", "half.yaml", "twice.yaml"])
      rmSync(`${specs}/${name}`);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("hooks of a specification run at their moments, and one that fails or hangs fails the container and is named", async () => {
    const [specs, record] = [`${daemon.dir}/mock/cdi`, `${daemon.dir}/hooks`];
    const script = `#!/bin/sh
cat >"${record}.$1.json"
bundle=$(sed 's/.*"bundle":"\\([^"]*\\)".*/\\1/' "${record}.$1.json")
if [ -e "$bundle/rootfs/bin/sh" ]; then echo "$1 sees the root"; else echo "$1"; fi >>${record}
`;
    writeFileSync(`${daemon.dir}/mock/bin/hook`, script, { mode: 0o755 });
    const names = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    const hooks = names.map((hookName) => ({
      hookName,
      // startContainer hooks are the container's own programs; the others the node's.
      path: hookName === "startContainer" ? "/bin/sh" : `${daemon.dir}/mock/bin/hook`,
      args: hookName === "startContainer" ? ["sh", "-c", "cat >/tmp/state.json"] : ["hook", hookName],
      env: ["PATH=/bin:/usr/bin"],
    }));
    const spec = (name: string, hook: object[]) =>
      writeFileSync(
        `${specs}/${name}.json`,
        JSON.stringify({
          cdiVersion: "0.6.0",
          kind: `${name}.com/gpu`,
          devices: [{ name: "a", containerEdits: { hooks: hook } }],
        }),
      );
    spec("all", hooks);
    const pod = await runPod(daemon);
    const id = await createContainer(daemon, pod, "sleep 1000", { CDIDevices: [{ name: "all.com/gpu=a" }] });
    const ran = () => readFileSync(record, "utf8").trim().split("\n");
    assert.deepEqual(ran(), ["prestart", "createRuntime", "createContainer sees the root"]);
    await daemon.client.runtime.startContainer({ containerId: id });
    assert.deepEqual(ran(), ["prestart", "createRuntime", "createContainer sees the root", "poststart"]);
    const inside = JSON.parse(await sh(daemon, id, "cat /tmp/state.json")) as { id: string; status: string };
    assert.deepEqual([inside.id, inside.status], [id, "created"]);
    const state = JSON.parse(readFileSync(`${record}.createContainer.json`, "utf8")) as { bundle: string; id: string };
    assert.deepEqual([state.id, state.bundle], [id, `${daemon.state}/containers/${id}`]);
    await daemon.client.runtime.removeContainer({ containerId: id });
    assert.equal(ran().at(-1), "poststop");

    const nothing = await inventory(daemon);
    spec("bad", [{ hookName: "createContainer", path: "/bin/sh", args: ["sh", "-c", "echo no such GPU >&2; exit 3"] }]);
    spec("slow", [{ hookName: "createRuntime", path: "/bin/sleep", args: ["sleep", "1000"], timeout: 1 }]);
    const fails = async (name: string, message: RegExp) => {
      const config = { CDIDevices: [{ name: `${name}.com/gpu=a` }] };
      await assert.rejects(createContainer(daemon, pod, "true", config), message);
      await assertNothingLeft(daemon, nothing);
    };
    await fails(
      "bad",
      /bad\.json: device "bad\.com\/gpu=a": hooks "\/bin\/sh": .*\/bin\/sh ended with status 3: no such GPU/,
    );
    await fails(
      "slow",
      /slow\.json: device "slow\.com\/gpu=a": hooks "\/bin\/sleep": .*did not end within 1000 ms and was killed/,
    );
    // One that sets itself no limit hangs for as long as its caller waits.
    await run(["mkfifo", `${record}.begun`]);
    const endless = `echo >${record}.begun; exec sleep 1000`;
    spec("endless", [{ hookName: "createContainer", path: "/bin/sh", args: ["sh", "-c", endless] }]);
    const caller = new AbortController();
    using client = connect(daemon.socket);
    const config = containerConfig("true", { CDIDevices: [{ name: "endless.com/gpu=a" }] });
    const request = { podSandboxId: pod.id, sandboxConfig: pod.config, config };
    const waiting = assert.rejects(client.runtime.createContainer(request, { signal: caller.signal }));
    await readFile(`${record}.begun`);
    caller.abort();
    await waiting;
    await assertNothingLeft(daemon, nothing);
    for (const name of ["all", "bad", "slow", "endless"]) rmSync(`${specs}/${name}.json`);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  test("the published NVIDIA specification, with its hooks, on a machine made to look like its own", async () => {
    await nvidiaHost(`${daemon.dir}/nvidia`, `${daemon.dir}/mock/cdi/nvidia.json`);
    const pod = await runPod(daemon);
    const id = await startContainer(daemon, pod, "sleep 1000", { CDIDevices: [{ name: "nvidia.com/gpu=0" }] });
    assert.equal(await sh(daemon, id, "ls /dev/dri"), "by-path\ncard0\nrenderD128\n");
    assert.equal(
      await sh(daemon, id, "ls /dev | grep nvidia"),
      "nvidia-modeset\nnvidia-uvm\nnvidia-uvm-tools\nnvidia0\nnvidiactl\n",
    );
    assert.equal(await sh(daemon, id, "readlink /dev/dri/by-path/pci-0000:01:00.0-card"), "../card0\n");
    assert.equal(await sh(daemon, id, "stat -c %a /dev/dri"), "755\n");
    assert.equal(await sh(daemon, id, "cat /usr/bin/nvidia-smi"), "/usr/bin/nvidia-smi");
    const link = "/usr/lib/x86_64-linux-gnu/nvidia/xorg/libglxserver_nvidia.so";
    assert.equal(await sh(daemon, id, `readlink ${link}`), "libglxserver_nvidia.so.525.147.05\n");
    // The driver's library is found under the name that programs ask for, by the cache that the hook made.
    assert.equal(await sh(daemon, id, "readlink /usr/lib/x86_64-linux-gnu/libcuda.so.1"), "libcuda.so.525.147.05\n");
    assert.match(await sh(daemon, id, "grep -c libcuda.so.1 /etc/ld.so.cache"), /^1\n$/);
    rmSync(`${daemon.dir}/mock/cdi/nvidia.json`);
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });

  const noRunc = spawnSync("runc", ["--version"]).status === 0 ? false : "runc is not installed";
  test(
    "a handler with a runtime binary gets the same devices, and its runtime runs the hooks",
    { skip: noRunc },
    async () => {
      await nvidiaHost(`${daemon.dir}/nvidia`, `${daemon.dir}/mock/cdi/nvidia.json`);
      const runtime = "plugins.'io.containerd.cri.v1.runtime'";
      const real = `[${runtime}.containerd.runtimes.real]\nruntime_type = "io.containerd.runc.v2"\n[${runtime}.containerd.runtimes.real.options]\nBinaryName = "runc"\n`;
      await daemon.reload(`version = 3\n[${runtime}]\ncdi_spec_dirs = ["${daemon.dir}/mock/cdi"]\n${real}`);
      const pod = await runPod(daemon, {}, "real");
      const id = await startContainer(daemon, pod, "sleep 1000", { CDIDevices: [{ name: "nvidia.com/gpu=all" }] });
      assert.equal(await sh(daemon, id, "ls /dev/dri"), "by-path\ncard0\nrenderD128\n");
      assert.equal(await sh(daemon, id, "cat /usr/bin/nvidia-smi"), "/usr/bin/nvidia-smi");
      assert.match(await sh(daemon, id, "grep -c libcuda.so.1 /etc/ld.so.cache"), /^1\n$/);
      rmSync(`${daemon.dir}/mock/cdi/nvidia.json`);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    },
  );

  test("from the device plugin to the container: what a kubelet is answered is what runs", async () => {
    const dir = `${daemon.dir}/plugins`;
    mkdirSync(dir);
    const kubelet = new FakeKubelet(dir);
    await kubelet.start();
    // As mock.com/gpu of the document: no code, a file of three lines.
    const plugin = await DevicePlugin.start({
      config: parseConfig("version: v1\nresources:\n- name: mock.com/gpu\n"),
      cdiSpecDirs: [`${daemon.dir}/mock/cdi`],
      kubeletSocket: kubelet.socket,
      log: { info() {}, warn() {}, error() {} },
    });
    try {
      const resource = kubelet.resources.get("mock.com/gpu");
      assert.ok(resource);
      await kubelet.until(() => resource.lists.length > 0);
      const free = Object.entries(resource.lists[0] ?? {}).flatMap(([id, health]) => (health === "Healthy" ? id : []));
      assert.equal(free.length, 7, "the node of one of the eight went away above");
      const { getPreferredAllocation, allocate } = deviceplugin.DevicePlugin.method;
      const asked = { availableDeviceIDs: free, mustIncludeDeviceIDs: [], allocationSize: 4 };
      const preferred = await resource.call(getPreferredAllocation, { containerRequests: [asked] });
      const devicesIds = preferred.containerResponses[0]?.deviceIDs ?? [];
      const { containerResponses } = await resource.call(allocate, { containerRequests: [{ devicesIds }] });
      const pod = await runPod(daemon);
      const CDIDevices = (containerResponses[0]?.cdiDevices ?? []).map(({ name }) => ({ name }));
      const id = await startContainer(daemon, pod, "sleep 1000", { CDIDevices });
      assert.equal(await sh(daemon, id, "ls /dev/mock"), "device_0\ndevice_1\ndevice_2\ndevice_3\n");
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
    } finally {
      await plugin.close();
      await kubelet.stop();
    }
  });

  test("where CDI is turned off, a container that asks for it is refused", async () => {
    await daemon.reload("version = 3\n[plugins.'io.containerd.cri.v1.runtime']\nenable_cdi = false\n");
    const pod = await runPod(daemon);
    const config = { CDIDevices: [{ name: "mock.com/gpu=device_0" }] };
    await assert.rejects(
      createContainer(daemon, pod, "true", config),
      /config\.CDI_devices: CDI is disabled on this node/,
    );
    await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
  });
});
