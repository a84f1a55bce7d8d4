/** Runtime handlers whose shim says what its runtime can do (`-info`): berth's own shims do, containerd 1.6's does not. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { packMessage, unpackJson, unpackMessage } from "@berth/shim";
import { introspection, runtimeOptions } from "@berth/spec/shim";
import { checkout, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { runPod, sh, startContainer } from "./support/pods.ts";

const RUNTIMES = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const OWN = `${checkout}/bin/containerd-shim-berth-v2`;
const OF_MACHINES = `${checkout}/bin/containerd-shim-berth-vm-v2`;
const SILENT = `${checkout}/bin/berth-runc`;
const [POD, CONTAINER] = [0, 1] as const;
const SHIFT = 400_000;
const map = [{ containerId: 0, hostId: SHIFT, length: 65_536 }];
const linux = (pid: number = CONTAINER): object => ({
  linux: { securityContext: { namespaceOptions: { pid, usernsOptions: { mode: POD, uids: map, gids: map } } } },
});
/** As containerd 2.3's library makes shims: all that they are to know is on standard input, and what they answer is a message. */
const NEWER = `#!/bin/sh
case " $* " in
*" start "*) ;;
*) exec ${OWN} "$@" ;;
esac
cat >params
if ! grep -q '\\.ttrpc' params; then
  echo "the shim was started through the deprecated API but was built against the new API" >&2
  exit 1
fi
address=$(${OWN} "$@" <params | sed 's/.*"address":"\\([^"]*\\)".*/\\1/')
length=$(printf '\\\\%o' \${#address})
printf '\\010\\003\\022'"$length"'%s\\032\\005ttrpc' "$address"
`;
const SLEEP = "while :; do sleep 1000; done";

interface Features {
  readonly mountOptions: readonly string[];
  readonly linux: { readonly namespaces: readonly string[] };
}

test("-info: name, version, the options it was asked with, and the features of its runtime", () => {
  const asked = packMessage(runtimeOptions.OptionsSchema, { configPath: "/etc/x.toml" });
  const info = (program: string) => {
    const { status, stdout, stderr } = spawnSync(program, ["-info"], { input: toBinary(AnySchema, asked) });
    assert.equal(status, 0, String(stderr));
    return fromBinary(introspection.RuntimeInfoSchema, stdout);
  };
  const own = info(OWN);
  assert.deepEqual([own.name, own.version?.version], ["containerd-shim-berth-v2", "2.0"]);
  assert.equal(unpackMessage(own.options, runtimeOptions.OptionsSchema)?.configPath, "/etc/x.toml");
  assert.equal(own.features?.typeUrl, "types.containerd.io/opencontainers/runtime-spec/1/features/Features");
  const features = unpackJson<Features>(own.features);
  assert.ok(features.mountOptions.includes("rro") && features.linux.namespaces.includes("user"));
  const machines = info(OF_MACHINES);
  assert.ok(machines.features);
  assert.ok(!unpackJson<Features>(machines.features).linux.namespaces.includes("user"));
});

describe("handlers", { skip: process.getuid?.() !== 0 && "needs root" }, () => {
  let daemon: TestDaemon;
  let empty: Inventory;
  let programs = "";
  let supported = false;
  before(async () => {
    const table = (name: string, path: string): string =>
      `[${RUNTIMES}.${name}]\nruntime_type = "io.containerd.berth.v2"\nruntime_path = "${path}"\n`;
    programs = mkdtempSync(join(tmpdir(), "berth-shim-"));
    const newer = join(programs, "newer");
    writeFileSync(newer, NEWER, { mode: 0o755 });
    const shims = { own: OWN, machines: OF_MACHINES, silent: SILENT, newer };
    const tables = Object.entries(shims).map(([name, path]) => table(name, path));
    daemon = await TestDaemon.start({ config: `version = 3\n${tables.join("")}` });
    // As /run is: the container's root reaches its bundle as somebody else on the host.
    chmodSync(daemon.dir, 0o711);
    const { runtimeHandlers } = await daemon.client.runtime.status({});
    supported = runtimeHandlers.find(({ name }) => name === "")?.features?.userNamespaces === true;
    empty = await inventory(daemon);
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    rmSync(programs, { recursive: true });
  });

  async function gone(podSandboxId: string): Promise<void> {
    await daemon.client.runtime.removePodSandbox({ podSandboxId });
    const { files } = await inventory(daemon);
    // The socket for shims' events stays with the daemon.
    assert.deepEqual(
      files.filter((name) => name !== "shims.sock.ttrpc"),
      empty.files,
    );
    await assertNothingLeft(daemon, { ...empty, files });
  }

  test("Status: what each shim says; one that says nothing can nothing", async () => {
    const { runtimeHandlers } = await daemon.client.runtime.status({});
    const features = (name: string) => {
      const found = runtimeHandlers.find((handler) => handler.name === name)?.features;
      return [found?.recursiveReadOnlyMounts, found?.userNamespaces];
    };
    assert.deepEqual(features("own"), features(""));
    assert.deepEqual(features("machines")[1], false);
    assert.deepEqual(features("silent"), [false, false]);
    if (supported)
      await assert.rejects(
        runPod(daemon, linux(), "silent"),
        /userns_options: the runtime of handler "silent" does not say that it can map/,
      );
  });

  test("a pod with a user namespace: root inside is nobody outside; mapped volumes, exec, a restart", async (t) => {
    if (!supported) return t.skip("this kernel cannot map the owners of an image's layers (Linux 6.13)");
    const volume = `${daemon.dir}/volume`;
    mkdirSync(volume);
    writeFileSync(`${volume}/file`, "data");
    chownSync(`${volume}/file`, 1000, 1001);
    const pod = await runPod(daemon, linux(), "own");
    const mounts = [{ hostPath: volume, containerPath: "/mapped", uidMappings: map, gidMappings: map }];
    const id = await startContainer(daemon, pod, SLEEP, { ...linux(), mounts });
    const { info } = await daemon.client.runtime.containerStatus({ containerId: id, verbose: true });
    const { pid } = JSON.parse(info["info"] ?? "") as { pid: number };
    assert.match(readFileSync(`/proc/${pid}/status`, "utf8"), new RegExp(`^Uid:\\t${SHIFT}\\t`, "m"));
    assert.match(await sh(daemon, id, "cat /proc/self/uid_map"), new RegExp(`0 +${SHIFT} +65536`));
    assert.equal(await sh(daemon, id, "id -u; stat -c %u:%g /bin/sh /etc/hosts"), "0\n0:0\n0:0\n");
    await sh(daemon, id, "echo x > /new; chown 12:13 /new; echo x > /dev/null; echo z > /dev/shm/z");
    assert.equal(statSync(`/proc/${pid}/root/new`).uid, SHIFT + 12);
    assert.equal(await sh(daemon, id, "stat -c %u:%g /mapped/file; echo more > /mapped/new"), "1000:1001\n");
    assert.equal(statSync(`${volume}/new`).uid, 0);
    await sh(daemon, id, "ip addr show eth0 | grep -q inet");
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    assert.equal(await sh(daemon, id, "id -u"), "0\n");
    await gone(pod.id);
  });

  test("a shim of containerd 2.3's: started by its messages, and found again by the next berthd", async () => {
    const pod = await runPod(daemon, {}, "newer");
    const id = await startContainer(daemon, pod, SLEEP);
    assert.equal(await sh(daemon, id, "echo there"), "there\n");
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    assert.equal(await sh(daemon, id, "echo again"), "again\n");
    await gone(pod.id);
  });

  test("its containers share the pod's PID namespace", async (t) => {
    if (!supported) return t.skip("this kernel cannot map the owners of an image's layers (Linux 6.13)");
    const pod = await runPod(daemon, linux(POD), "own");
    const id = await startContainer(daemon, pod, SLEEP, linux(POD));
    assert.match(await sh(daemon, id, "cat /proc/1/comm"), /pause/);
    await gone(pod.id);
  });

  test("recursive_read_only: mounts below are read-only too", async (t) => {
    const { runtimeHandlers } = await daemon.client.runtime.status({});
    const { features } = runtimeHandlers.find(({ name }) => name === "own") ?? {};
    if (features?.recursiveReadOnlyMounts !== true) return t.skip("this kernel has no mount_setattr (Linux 5.12)");
    const pod = await runPod(daemon, {}, "own");
    const mounts = [{ hostPath: "/dev", containerPath: "/host", readonly: true, recursiveReadOnly: true }];
    const id = await startContainer(daemon, pod, SLEEP, { mounts });
    assert.match(await sh(daemon, id, "echo x 2>/dev/null >/host/shm/written || echo refused"), /refused/);
    await assert.rejects(
      startContainer(daemon, pod, "true", { mounts: [{ ...mounts[0], readonly: false }] }),
      /needs readonly/,
    );
    await gone(pod.id);
  });
});
