/** configuration.toml: the document's own file, today's keys, drop-ins, annotations. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { HYPERVISOR_KEYS } from "../src/configuration/hypervisor-keys.ts";
import type { Key } from "../src/configuration/key.ts";
import { FACTORY_KEYS, OTHER_TABLES } from "../src/configuration/other-keys.ts";
import { findConfiguration, loadSettings, settingsOf } from "../src/configuration/settings.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "berth-vm-config-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

function write(name: string, text: string): string {
  const path = join(dir, name);
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, text);
  return path;
}

const EXAMPLE = fileURLToPath(new URL("testdata/configuration-1.x.toml", import.meta.url));

test("a file of Kata 1.x is taken as it is", async () => {
  const settings = await loadSettings({ named: EXAMPLE });
  assert.equal(settings.name, "qemu");
  assert.equal(settings.hypervisor.machine_type, "pc");
  assert.equal(settings.hypervisor.shared_fs, "virtio-9p");
  assert.equal(settings.hypervisor.virtio_fs_cache, "always");
  assert.equal(settings.hypervisor.default_maxvcpus, 0);
  assert.equal(settings.runtime.internetworking_model, "tcfilter");
  assert.equal(settings.runtime.disable_guest_seccomp, true);
  assert.ok(settings.warnings.some((line) => line.startsWith("[proxy.kata] path changes nothing: ")));
});

test("without a file there are berth's defaults", async () => {
  const settings = await loadSettings({ defaults: [] });
  assert.equal(settings.file, undefined);
  assert.deepEqual(
    [settings.hypervisor.machine_type, settings.hypervisor.default_memory, settings.hypervisor.shared_fs],
    ["q35", 2048, "virtio-fs"],
  );
});

test("the search: named, KATA_CONF_FILE, then the usual places; a named file must be there", () => {
  const [a, b] = [write("a.toml", ""), write("b.toml", "")];
  assert.equal(findConfiguration({ named: a, environment: b, defaults: [] }), a);
  assert.equal(findConfiguration({ environment: b, defaults: [a] }), b);
  assert.equal(findConfiguration({ defaults: [join(dir, "none"), a] }), a);
  assert.equal(findConfiguration({ defaults: [join(dir, "none")] }), undefined);
  assert.throws(() => findConfiguration({ named: join(dir, "none") }), /no such configuration file/);
});

test("drop-ins: in the order of their names, tables merged, all else replaced", async () => {
  const path = write(
    "configuration.toml",
    '[hypervisor.qemu]\ndefault_vcpus = 2\npflashes = ["a", "b"]\n[runtime]\nexperimental = []\n',
  );
  write("config.d/20-b.toml", "[hypervisor.qemu]\ndefault_memory = 512\n");
  write("config.d/10-a.toml", '[hypervisor.qemu]\ndefault_memory = 256\npflashes = ["c"]\n');
  const { hypervisor } = await loadSettings({ named: path });
  assert.deepEqual([hypervisor.default_vcpus, hypervisor.default_memory, hypervisor.pflashes], [2, 512, ["c"]]);
  write("config.d/30-c.toml", "[hypervisor.qemu\n");
  await assert.rejects(loadSettings({ named: path }), /config\.d\/30-c\.toml: /);
});

test("every problem is told at once, with the nearest known key", () => {
  assert.throws(
    () =>
      settingsOf({
        hypervisor: { qemu: { default_memroy: 1, path: 3, confidential_guest: true }, acrn: {} },
        runtimes: {},
        image: { service_offload: true },
      }),
    (error: Error) => {
      const lines = error.message.split("\n");
      assert.equal(lines.length, 6);
      assert.match(error.message, /default_memroy: no such key; did you mean default_memory\?/);
      assert.match(error.message, /\[hypervisor\.qemu\] path: must be a text/);
      assert.match(error.message, /confidential_guest: confidential guests need/);
      assert.match(error.message, /\[hypervisor\.acrn\]: there is no driver for it/);
      assert.match(error.message, /runtimes: no such table; did you mean runtime\?/);
      assert.match(error.message, /\[image\] service_offload: /);
      return true;
    },
  );
  for (const [key, value, words] of [
    ["shared_fs", "nfs", /shared_fs: "nfs" is none of virtio-fs, virtio-9p, none/],
    ["block_device_aio", "fast", /block_device_aio: "fast" is none of threads, native, io_uring/],
  ] as const)
    assert.throws(() => settingsOf({ hypervisor: { qemu: { [key]: value } } }), words);
  assert.throws(
    () => settingsOf({ hypervisor: { qemu: {}, clh: {} } }),
    /say by \[runtime\] hypervisor_name which counts/,
  );
  assert.throws(
    () => settingsOf({ runtime: { internetworking_model: "bridged" } }),
    /"bridged" is not done here; use tcfilter/,
  );
});

/** A value that is not the key's default. */
function another({ type, fallback }: Key): unknown {
  switch (type) {
    case "boolean":
      return fallback !== true;
    case "integer":
      return Number(fallback) + 7;
    case "number":
      return Number(fallback) + 1.5;
    case "strings":
      return ["other"];
    case "list":
      return [{}];
    case "string":
      return `${fallback as string}other`;
  }
}

describe("the tables of keys", () => {
  test("a refused key is refused by what it says, and taken at its default", () => {
    const refused = Object.entries<Key>(HYPERVISOR_KEYS).filter(([, key]) => key.use === "refused");
    assert.ok(refused.length > 20);
    for (const [name, key] of refused) {
      assert.doesNotThrow(() => settingsOf({ hypervisor: { qemu: { [name]: key.fallback } } }), name);
      assert.throws(
        () => settingsOf({ hypervisor: { qemu: { [name]: another(key) === false ? true : another(key) } } }),
        (error: Error) => error.message.includes(`${name}: ${key.note}`),
        name,
      );
    }
  });

  test("every key of Kata 4.1's files for QEMU, Cloud Hypervisor, Firecracker and StratoVirt is in one", () => {
    const listed = readFileSync(new URL("testdata/kata-4.1-keys.txt", import.meta.url), "utf8")
      .trim()
      .split("\n");
    assert.ok(listed.length > 150);
    for (const line of listed) {
      const [table = "", name = ""] = line.split(" ");
      const keys =
        table === "hypervisor.*" ? HYPERVISOR_KEYS : table.endsWith("factory") ? FACTORY_KEYS : OTHER_TABLES[table];
      assert.ok(keys && name in keys, line);
    }
  });
});

describe("annotations", () => {
  const settings = (annotations: Record<string, string>, own: Record<string, unknown> = {}) =>
    settingsOf({ hypervisor: { qemu: own } }, undefined, annotations);
  const hypervisor = (name: string): string => `io.katacontainers.config.hypervisor.${name}`;

  test("only what enable_annotations names", () => {
    assert.equal(settings({ [hypervisor("default_memory")]: "512" }).hypervisor.default_memory, 512);
    assert.throws(
      () => settings({ [hypervisor("machine_type")]: "pc" }),
      /machine_type: not allowed; the configuration's enable_annotations must name it/,
    );
    assert.equal(
      settings({ [hypervisor("machine_type")]: "pc" }, { enable_annotations: ["machine_.*"] }).hypervisor.machine_type,
      "pc",
    );
    assert.equal(
      settings({ [hypervisor("default_max_vcpus")]: "3" }, { enable_annotations: ["default_max_vcpus"] }).hypervisor
        .default_maxvcpus,
      3,
    );
  });

  test("paths only where a pattern allows them", () => {
    const own = { enable_annotations: ["path"], valid_hypervisor_paths: ["/opt/*/qemu"] };
    assert.equal(settings({ [hypervisor("path")]: "/opt/kata/qemu" }, own).hypervisor.path, "/opt/kata/qemu");
    assert.throws(
      () => settings({ [hypervisor("path")]: "/tmp/qemu" }, own),
      /matches no pattern of the configuration's valid_hypervisor_paths/,
    );
  });

  test("who may say what is never a pod's to say, and mistakes are told", () => {
    assert.throws(
      () => settings({ [hypervisor("enable_annotations")]: ".*" }, { enable_annotations: [".*"] }),
      /enable_annotations: no such key/,
    );
    assert.throws(() => settings({ [hypervisor("default_memory")]: "much" }), /"much" is not a whole number/);
    assert.throws(() => settings({ [hypervisor("image_hash")]: "00" }), /checked by nobody else's digest/);
    assert.throws(
      () => settings({ "io.katacontainers.config.runtime.disable_guest_secomp": "true" }),
      /did you mean disable_guest_seccomp\?/,
    );
  });

  test("tables besides the hypervisor's need no permission", () => {
    const { runtime, agent } = settings({
      "io.katacontainers.config.runtime.disable_guest_seccomp": "true",
      "io.katacontainers.config.agent.dial_timeout": "7",
    });
    assert.equal(runtime.disable_guest_seccomp, true);
    assert.equal(agent.dial_timeout, 7);
    const modules = { "io.katacontainers.config.agent.kernel_modules": "a x=1; b" };
    assert.deepEqual(settings(modules).agent.kernel_modules, ["a x=1", "b"]);
  });
});
