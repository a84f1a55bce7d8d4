/** Pods with a user namespace under handlers with a BinaryName: berth maps the root file system, the binary maps volumes. */
import { spawnSync } from "node:child_process";
import assert from "node:assert/strict";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { after, before, describe, test } from "node:test";
import { checkout, TestDaemon } from "./support/daemon.ts";
import { assertNothingLeft, type Inventory, inventory } from "./support/leaks.ts";
import { createContainer, exited, runPod, sh, startContainer, status } from "./support/pods.ts";

const SLEEP = "while :; do sleep 1000; done";
const [POD, CONTAINER] = [0, 1] as const;
const SHIFT = 400_000;
const map = [{ containerId: 0, hostId: SHIFT, length: 65_536 }];
const linux = (pid: number = CONTAINER): object => ({
  linux: {
    securityContext: { namespaceOptions: { pid, usernsOptions: { mode: POD, uids: map, gids: map } } },
  },
});

interface Features {
  readonly linux?: { readonly mountExtensions?: { readonly idmap?: { readonly enabled?: boolean } } };
}
/** What runc has said since 1.2 and crun since 1.9; undefined: the program is missing, or knows no such command. */
function featuresOf(program: string): Features | undefined {
  const { status: code, stdout } = spawnSync(program, ["features"], { encoding: "utf8" });
  return code === 0 ? (JSON.parse(stdout) as Features) : undefined;
}
const mapsVolumes = (program: string): boolean => featuresOf(program)?.linux?.mountExtensions?.idmap?.enabled === true;

/** Joins namespaces and roots as well as a newer one, and maps no volumes. */
const PRETENDER = `#!/bin/sh
for word do
  [ "$word" = features ] && exec echo '{"linux":{"namespaces":["user"],"mountExtensions":{"idmap":{"enabled":true}}}}'
done
exec runc "$@"
`;

const programs: Record<string, { readonly path: string; readonly volumes: boolean; readonly skip: string | false }> = {
  "berth-runc": { path: `${checkout}/bin/berth-runc`, volumes: true, skip: false },
  runc: { path: "runc", volumes: true, skip: !mapsVolumes("runc") && "this runc does not say that it maps mounts" },
  crun: { path: "crun", volumes: true, skip: !mapsVolumes("crun") && "this crun does not say that it maps mounts" },
  "older-runc": { path: "PRETENDER", volumes: false, skip: !featuresOf("runc") && "runc is not installed" },
};

let dir: string;
let daemon: TestDaemon;
let empty: Inventory;
let supported = false;
before(async () => {
  dir = mkdtempSync(`${tmpdir()}/berth-handlers-`);
  writeFileSync(`${dir}/pretender`, PRETENDER, { mode: 0o755 });
  const tables = Object.entries(programs).map(
    ([name, { path }]) => `[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.by-${name}.options]
BinaryName = "${path === "PRETENDER" ? `${dir}/pretender` : path}"`,
  );
  daemon = await TestDaemon.start({ config: `version = 3\n${tables.join("\n")}\n` });
  // As /run is: the container's root reaches its bundle as somebody else on the host.
  chmodSync(daemon.dir, 0o711);
  const { runtimeHandlers } = await daemon.client.runtime.status({});
  supported = runtimeHandlers.find(({ name }) => name === "")?.features?.userNamespaces === true;
  for (const name of Object.keys(programs)) mkdirSync(`${daemon.state}/runtimes/by-${name}`, { recursive: true });
  empty = await inventory(daemon);
});
after(async () => {
  await daemon[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

test("features: what the binary's own command says, and the kernel can", async () => {
  const { runtimeHandlers } = await daemon.client.runtime.status({});
  for (const [name, { path }] of Object.entries(programs)) {
    const said = path === "PRETENDER" ? featuresOf("runc") !== undefined : mapsVolumes(path);
    const { features } = runtimeHandlers.find((handler) => handler.name === `by-${name}`) ?? {};
    assert.equal(features?.userNamespaces, supported && said, name);
    if (supported && !said)
      await assert.rejects(
        runPod(daemon, linux(), `by-${name}`),
        /userns_options: the runtime of handler|names the binary/,
      );
  }
});

for (const [name, { volumes, skip }] of Object.entries(programs))
  describe(name, { skip }, () => {
    const handler = `by-${name}`;
    const ready = (t: { skip(why: string): void }): boolean => {
      if (!supported) t.skip("this kernel cannot map the owners of an image's layers (Linux 6.13)");
      return supported;
    };

    test("root inside is nobody outside; files, exec, the pod's namespaces, a restart, and nothing left", async (t) => {
      if (!ready(t)) return;
      const pod = await runPod(daemon, linux(), handler);
      const id = await startContainer(daemon, pod, SLEEP, linux());
      const { info } = await daemon.client.runtime.containerStatus({ containerId: id, verbose: true });
      const { pid } = JSON.parse(info["info"] ?? "") as { pid: number };
      assert.match(readFileSync(`/proc/${pid}/status`, "utf8"), new RegExp(`^Uid:\\t${SHIFT}\\t`, "m"));
      assert.match(await sh(daemon, id, "cat /proc/self/uid_map"), new RegExp(`0 +${SHIFT} +65536`));
      assert.equal(await sh(daemon, id, "id -u; stat -c %u:%g /bin/sh /etc/hosts"), "0\n0:0\n0:0\n");
      await sh(
        daemon,
        id,
        "echo x > /new; chown 12:13 /new; echo y >> /etc/hosts; echo x > /dev/null; echo z > /dev/shm/z",
      );
      assert.equal(await sh(daemon, id, "stat -c %u:%g /new"), "12:13\n");
      assert.equal(statSync(`/proc/${pid}/root/new`).uid, SHIFT + 12);
      await sh(daemon, id, "ip addr show eth0 | grep -q inet");
      const second = await startContainer(daemon, pod, "exit 6", linux());
      assert.equal((await exited(daemon, second)).exitCode, 6);
      await daemon.kill("SIGKILL");
      await daemon.startAgain();
      assert.equal(await sh(daemon, id, "id -u"), "0\n");
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, empty);
    });

    test("a shared PID namespace", async (t) => {
      if (!ready(t)) return;
      const pod = await runPod(daemon, linux(POD), handler);
      const id = await startContainer(daemon, pod, SLEEP, linux(POD));
      assert.match(await sh(daemon, id, "cat /proc/1/comm"), /bosun/);
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, empty);
    });

    test("volumes that are mapped keep their owners", async (t) => {
      if (!ready(t)) return;
      const volume = `${daemon.dir}/volume-${name}`;
      mkdirSync(volume);
      writeFileSync(`${volume}/file`, "data");
      chownSync(`${volume}/file`, 1000, 1001);
      const pod = await runPod(daemon, linux(), handler);
      const mounts = [{ hostPath: volume, containerPath: "/mapped", uidMappings: map, gidMappings: map }];
      const made = createContainer(daemon, pod, SLEEP, { ...linux(), mounts });
      if (volumes) {
        const id = await made;
        await daemon.client.runtime.startContainer({ containerId: id });
        assert.equal(await sh(daemon, id, "stat -c %u:%g /mapped/file; echo more > /mapped/new"), "1000:1001\n");
        assert.equal(statSync(`${volume}/new`).uid, 0);
        assert.equal((await status(daemon, id)).state, 1);
      } else await made.catch((error: Error) => assert.match(error.message, /OCI runtime: /));
      await daemon.client.runtime.removePodSandbox({ podSandboxId: pod.id });
      await assertNothingLeft(daemon, empty);
    });
  });
