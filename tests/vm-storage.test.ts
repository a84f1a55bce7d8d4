/** What machines stand on: guest images as NVDIMM and as block devices, and root file systems as disks. */
import assert from "node:assert/strict";
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import { type Hand, probeHost, startHand } from "@berth/kernel";
import {
  type ImageDescription,
  loadSettings,
  type PodMachine,
  removeMachine,
  settingsOf,
  startMachine,
  type VmHost,
} from "@berth/vm";
import { checkout } from "./support/daemon.ts";
import { makeGuestImage } from "../bench/lib/guest-image.ts";
import { vmProblem } from "./support/vm.ts";

/** The file that Kata 1.7 came with, as it is documented. */
const DOCUMENTED = `${checkout}/packages/vm/test/testdata/configuration-1.x.toml`;

describe("guest images", { skip: vmProblem() ?? false, timeout: 900_000 }, () => {
  let dir: string;
  let vm: VmHost;
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "berth-vm-storage-"));
    await makeGuestImage(join(dir, "image"));
    const hand = await startHand({ bosun: `${checkout}/.build/native/bosun`, state: join(dir, "state") });
    vm = { hand, host: await probeHost(hand), machines: join(dir, "m"), image: join(dir, "none"), log: () => {} };
  });
  after(async () => {
    await vm?.hand.close();
    rmSync(dir, { recursive: true, force: true });
  });

  async function boot(t: TestContext, id: string, settings: PodMachine["settings"]): Promise<PodMachine> {
    t.after(() => removeMachine(vm, id));
    const machine = await startMachine(vm, {
      id,
      settings,
      netns: undefined,
      cgroup: `/berth-test-storage-${process.pid}`,
      hostname: "guest",
      shmSize: 1 << 20,
      sysctls: {},
    });
    t.after(() => machine.close());
    return machine;
  }

  const read = async (hand: Hand, path: string): Promise<string> => {
    const outputs = await hand.run({ orders: [{ order: "read_file", args: { path, max: 1 << 16 } }] });
    return Buffer.from(outputs.get(0) ?? []).toString();
  };
  const rootOf = async ({ guest }: PodMachine): Promise<string> =>
    (await read(guest.hand, "/proc/mounts")).split("\n").find((line) => line.split(" ")[1] === "/") ?? "";

  test("the documented configuration.toml, with nothing but its paths changed, boots", async (t) => {
    const paths: Readonly<Record<string, string>> = {
      "/usr/bin/qemu-lite-system-x86_64": "/usr/bin/qemu-system-x86_64",
      "/usr/share/kata-containers/vmlinuz.container": `${dir}/image/vmlinuz`,
      "/usr/share/kata-containers/kata-containers.img": `${dir}/image/root.erofs`,
    };
    let text = readFileSync(DOCUMENTED, "utf8");
    for (const [from, to] of Object.entries(paths)) {
      assert.ok(text.includes(from), from);
      text = text.replaceAll(from, to);
    }
    const file = join(dir, "configuration.toml");
    writeFileSync(file, text);
    const machine = await boot(t, "documented", await loadSettings({ named: file }));
    assert.match(await rootOf(machine), /^\S*pmem0p1 \/ erofs ro,.*dax=always/);
    const { guest } = machine;
    assert.match(await read(guest.hand, "/proc/version"), /^Linux version /);
    assert.match(await read(guest.hand, "/proc/meminfo"), /MemTotal: +(19|20)\d{5} kB/);
    // An NVDIMM that a guest cannot write to.
    assert.equal(await read(guest.hand, "/sys/block/pmem0/ro"), "1\n");
    await machine.vm.stop();
    assert.match(await machine.ended, /status 0/);
  });

  test("an image is read through dm-verity, and one with another byte in it is no root", async (t) => {
    const { verity } = JSON.parse(readFileSync(join(dir, "image/image.json"), "utf8")) as ImageDescription;
    const image = (directory: string): PodMachine["settings"] =>
      settingsOf({
        hypervisor: {
          qemu: {
            default_memory: 192,
            default_maxmemory: 256,
            kernel: `${dir}/image/vmlinuz`,
            image: `${directory}/root.erofs`,
            kernel_verity_params: verity["root.erofs"],
          },
        },
      });
    const machine = await boot(t, "verity", image(`${dir}/image`));
    assert.match(await rootOf(machine), /^\/dev\/dm-0 \/ erofs ro,/);
    const other = join(dir, "other");
    mkdirSync(other);
    for (const name of ["image.json", "root.erofs", "root.erofs.initrd"])
      copyFileSync(join(dir, "image", name), join(other, name));
    const file = openSync(join(other, "root.erofs"), "r+");
    // A word of the superblock that nobody reads: its UUID's.
    writeSync(file, "x", (4 << 20) + 1024 + 48);
    closeSync(file);
    await assert.rejects(boot(t, "other", image(other)), /data block 0 is corrupted|as the root: I\/O error/);
  });

  test("an ext4 image as a block device, which its superblock says", async (t) => {
    const machine = await boot(
      t,
      "ext4",
      settingsOf({
        hypervisor: {
          qemu: {
            default_memory: 192,
            default_maxmemory: 256,
            kernel: `${dir}/image/vmlinuz`,
            image: `${dir}/image/root.ext4`,
            vm_rootfs_driver: "virtio-blk-pci",
          },
        },
      }),
    );
    assert.match(await rootOf(machine), /^\S*vda1 \/ ext4 ro,/);
  });
});
