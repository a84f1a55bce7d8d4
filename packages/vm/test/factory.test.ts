/** What a template is known by, and where it is; machines that are copies are in tests/vm-template.test.ts. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { berthVm } from "../src/commands/program.ts";
import { settingsOf } from "../src/configuration/settings.ts";
import { claimTemplate } from "../src/factory/claim.ts";
import { cacheDigest, isCurrent, templateKey, type TemplateKey, templateProblem } from "../src/factory/key.ts";
import { addTemplate, findTemplate, listTemplates, removeStale } from "../src/factory/store.ts";
import { machineShape } from "../src/hypervisor/choose.ts";
import { hypervisorOf } from "../src/hypervisor/drivers.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-factory-"));
  for (const name of ["qemu", "kernel", "initrd"]) writeFileSync(join(dir, name), name);
});
afterEach(() => rmSync(dir, { recursive: true }));

const place = (): string => join(dir, "templates");

function settingsWith(own: Record<string, unknown> = {}, factory: Record<string, unknown> = {}) {
  return settingsOf({ hypervisor: { qemu: { path: join(dir, "qemu"), ...own } }, factory });
}

/** `pod`: what of a pod its machine has. */
async function keyOf(own: Record<string, unknown> = {}, pod: Record<string, unknown> = {}): Promise<TemplateKey> {
  const settings = settingsWith(own);
  const shape = machineShape(settings, { kernel: join(dir, "kernel"), initrd: join(dir, "initrd"), image: undefined });
  const machine = { ...shape, id: "pod", directory: "/run/pod", shares: [], nics: [], disks: [], devices: [], ...pod };
  return await templateKey(hypervisorOf(settings, "tcg"), machine);
}

const filled = async (key: TemplateKey): Promise<void> =>
  void (await addTemplate(place(), key, async ({ memory, state }) => {
    writeFileSync(memory, "memory");
    writeFileSync(state, "state");
    await Promise.resolve();
  }));

test("a template is known by the files and settings that went into it, and by nothing of a pod", async () => {
  const { digest } = await keyOf();
  const nic = { id: "net0", tap: "tap0", mac: "02:00:00:00:00:01", queues: 1, vhost: false };
  const share = { tag: "share", socket: "/run/pod/fs.sock", queueSize: 1024, cacheSize: 0 };
  assert.equal(
    (await keyOf({}, { id: "other", directory: "/run/other", nics: [nic], shares: [share] })).digest,
    digest,
  );
  for (const own of [
    { default_memory: 512 },
    { default_vcpus: 2, default_maxvcpus: 2 },
    { kernel_params: "x=y" },
    { machine_type: "pc" },
  ])
    assert.notEqual((await keyOf(own)).digest, digest, JSON.stringify(own));
  for (const name of ["qemu", "kernel", "initrd"]) {
    const before = await keyOf();
    assert.equal(await isCurrent(before.inputs), true);
    writeFileSync(join(dir, name), `another ${name}`);
    assert.equal(await isCurrent(before.inputs), false);
    assert.notEqual((await keyOf()).digest, before.digest, name);
  }
});

test("machines that wait for a pod are known by their shares too, and by nothing of a pod", async () => {
  const digest = async (own: Record<string, unknown>, pod: Record<string, unknown> = {}): Promise<string> => {
    const settings = settingsWith(own);
    const shape = machineShape(settings, {
      kernel: join(dir, "kernel"),
      initrd: join(dir, "initrd"),
      image: undefined,
    });
    const machine = {
      ...shape,
      id: "pod",
      directory: "/run/pod",
      shares: [],
      nics: [],
      disks: [],
      devices: [],
      ...pod,
    };
    return cacheDigest(await keyOf(own), hypervisorOf(settings, "tcg"), machine, settings);
  };
  const plain = await digest({});
  assert.equal(await digest({}, { id: "other", directory: "/run/other" }), plain);
  // Nothing of it is on the hypervisor's command line.
  assert.equal(await digest({ enable_annotations: ["kernel"] }), plain);
  for (const own of [
    { default_memory: 512 },
    { shared_fs: "none" },
    { virtio_fs_cache: "always" },
    { virtio_fs_queue_size: 512 },
    { virtio_fs_extra_args: ["--thread-pool-size=1"] },
  ])
    assert.notEqual(await digest(own), plain, JSON.stringify(own));
});

test("what machines cannot be copied is said", () => {
  assert.equal(templateProblem(settingsWith()), undefined);
  assert.match(templateProblem(settingsWith({}, { enable_template: false })) ?? "", /^enable_template/);
  for (const [key, value] of Object.entries({
    machine_type: "microvm",
    enable_hugepages: true,
    enable_mem_prealloc: true,
    file_mem_backend: "/dev/shm",
    pflashes: ["/flash"],
  }))
    assert.match(templateProblem(settingsWith({ [key]: value })) ?? "", new RegExp(`^${key}`));
  const other = settingsOf({ hypervisor: { clh: {} } });
  assert.match(templateProblem(other) ?? "", /hypervisor clh has no templates here/);
});

test("a template comes whole or not at all, from whoever is first", async () => {
  const key = await keyOf();
  assert.equal(await findTemplate(place(), key), undefined);
  await assert.rejects(
    addTemplate(place(), key, () => Promise.reject(new Error("no guest"))),
    /no guest/,
  );
  assert.deepEqual(readdirSync(place()), []);
  await Promise.all([filled(key), filled(key), filled(key)]);
  assert.deepEqual(readdirSync(place()), [key.digest]);
  const found = await findTemplate(place(), key);
  assert.equal(found?.memory, join(place(), key.digest, "memory"));
  assert.deepEqual(readdirSync(found?.directory ?? "").sort(), ["memory", "state", "template.json"]);
});

async function until(holds: () => boolean): Promise<void> {
  for (const end = Date.now() + 60_000; !holds();) {
    assert.ok(Date.now() < end, "timed out");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test("one process of all makes a template; one that has ended makes none, though its parent has not heard of it", async () => {
  const claim = `.making-x`;
  {
    await using own = await claimTemplate(place(), "x");
    assert.ok(own);
    assert.equal(await claimTemplate(place(), "x"), undefined);
    await removeStale(place());
    assert.deepEqual(readdirSync(place()), [claim]);
  }
  assert.deepEqual(readdirSync(place()), []);
  const parent = spawn("sh", ["-c", "exec 3<&0; cat <&3 & echo $!; exec sleep 1000"]);
  try {
    const [line] = (await once(parent.stdout, "data")) as [Buffer];
    const zombie = line.toString().trim();
    await until(() => readFileSync(`/proc/${parent.pid}/comm`, "utf8") === "sleep\n");
    // Its child ends, and sleep(1) waits for none.
    parent.stdin.end();
    await until(() => readFileSync(`/proc/${zombie}/stat`, "utf8").includes(") Z "));
    symlinkSync(zombie, join(place(), claim));
    await removeStale(place());
    assert.deepEqual(readdirSync(place()), []);
    symlinkSync(zombie, join(place(), claim));
    await using own = await claimTemplate(place(), "x");
    assert.ok(own);
  } finally {
    parent.kill();
  }
});

test("what is of no use any more goes: of changed files, of a maker that is gone, the longest unused of too many", async () => {
  const old = await keyOf();
  await filled(old);
  writeFileSync(join(dir, "kernel"), "another kernel");
  mkdirSync(join(place(), `.new-${2 ** 22 + 1}-dead`));
  mkdirSync(join(place(), `.new-${process.pid}-alive`));
  const keys: TemplateKey[] = [];
  for (let memory = 128; memory < 128 + 20; memory += 2) keys.push(await keyOf({ default_memory: memory }));
  for (const [index, key] of keys.entries()) {
    await filled(key);
    utimesSync(join(place(), key.digest, "template.json"), index, index);
  }
  await removeStale(place());
  assert.equal(existsSync(join(place(), old.digest)), false);
  assert.deepEqual(
    readdirSync(place()).sort(),
    [`.new-${process.pid}-alive`, ...keys.slice(-7).map(({ digest }) => digest)].sort(),
  );
  // It was the oldest, and is used.
  await findTemplate(place(), keys[3] ?? old);
  assert.equal((await listTemplates(place()))[0]?.key.digest, keys[3]?.digest);
});

test("berth-vm factory destroy removes them", async () => {
  await filled(await keyOf());
  let stdout = "";
  const io = { stdout: { write: (text: string) => (stdout += text) }, stderr: process.stderr, env: {} };
  const configuration = join(dir, "configuration.toml");
  writeFileSync(configuration, `[hypervisor.qemu]\npath = "${dir}/qemu"\n[factory]\ntemplate_path = "${place()}"\n`);
  assert.equal(await berthVm(["--config", configuration, "factory", "destroy"], io), 0);
  assert.equal(stdout, "vm factory destroyed\n");
  assert.deepEqual(readdirSync(place()), []);
});
