/** What a guest boots from: as the configuration names it, or as berth-vm build-image has made it. */
import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import type { GuestFiles } from "../hypervisor/choose.ts";
import { hypervisorProgram } from "../hypervisor/drivers.ts";
import { type Acceleration, findAccelerator } from "../hypervisor/qemu/accelerator.ts";
import { loaderOf, readImage } from "../image/build.ts";
import type { VmHost } from "./host.ts";

/** Throws VmError Missing. */
export async function guestFilesOf(
  { image: directory }: Pick<VmHost, "image">,
  { hypervisor }: VmSettings,
): Promise<GuestFiles> {
  const built = await readImage(directory);
  const own = built && { kernel: join(directory, built.kernel), initrd: join(directory, built.initrd) };
  const kernel = hypervisor.kernel || own?.kernel;
  const image = hypervisor.image || undefined;
  const initrd = hypervisor.initrd || (image === undefined ? own?.initrd : loaderBeside(image));
  if (kernel === undefined || (image === undefined && initrd === undefined))
    throw new VmError(
      "Missing",
      `${directory}: no guest image; make one by berth-vm build-image, or name kernel and initrd in configuration.toml`,
    );
  for (const [key, path] of Object.entries({ kernel, initrd, image }))
    if (path !== undefined && !existsSync(path)) throw new VmError("Missing", `${key}: ${path} is not there`);
  return { kernel, initrd, image };
}

function loaderBeside(image: string): string | undefined {
  if (!existsSync(image)) throw new VmError("Missing", `image: ${image} is not there`);
  const loader = loaderOf(realpathSync(image));
  return existsSync(loader) ? loader : undefined;
}

const KVM = "/dev/kvm";
/** Facts about this machine, not about a pod or a daemon of it. */
const CACHE = "/run/berth-vm";

/** QEMU emulates where KVM does not work; the others cannot. Throws VmError Missing. */
export async function findAcceleratorOf(
  vm: Pick<VmHost, "hand">,
  settings: VmSettings,
  files: GuestFiles,
): Promise<Acceleration> {
  if (settings.name === "qemu") return await findAccelerator(vm.hand, hypervisorProgram(settings), files.kernel, CACHE);
  if (existsSync(KVM)) return { accelerator: "kvm", reason: "" };
  throw new VmError(
    "Missing",
    `${KVM} is not there, and [hypervisor.${settings.name}] runs on KVM alone; use [hypervisor.qemu]`,
  );
}
