/** What a guest boots from: as the configuration names it, or as berth-vm build-image has made it. */
import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import type { VmSettings } from "../configuration/settings.ts";
import { VmError } from "../errors.ts";
import type { GuestFiles } from "../hypervisor/choose.ts";
import type { GuestAgent } from "../hypervisor/machine.ts";
import { hypervisorProgram } from "../hypervisor/drivers.ts";
import { type Acceleration, findAccelerator } from "../hypervisor/qemu/accelerator.ts";
import { loaderOf, readImage } from "../image/build.ts";
import type { VmHost } from "./host.ts";

/** Throws VmError Missing. */
export async function guestFilesOf(
  { image: directory }: Pick<VmHost, "image">,
  settings: VmSettings,
): Promise<GuestFiles> {
  const { hypervisor } = settings;
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
  const boots = image ?? initrd ?? "";
  return { kernel, initrd, image, agent: await agentOf(settings, boots), has9p: await has9p(boots) };
}

async function has9p(path: string): Promise<boolean> {
  const description = await readImage(dirname(realpathSync(path)));
  return description !== undefined && !description.absent.some((name) => name.startsWith("9p"));
}

const VHOST_VSOCK = "/dev/vhost-vsock";
/** These bring a vsock of their own. */
const HYBRID: readonly string[] = ["clh", "firecracker"];

/** An image of berth's has its description beside it, which says so; any other is one of Kata's, and has Kata's agent. */
async function agentOf({ name, agent }: VmSettings, path: string): Promise<GuestAgent | undefined> {
  const directory = dirname(realpathSync(path));
  const description = await readImage(directory);
  if (description && description.agent === undefined) {
    if (agent.kernel_modules.length === 0) return undefined;
    throw new VmError(
      "Unsupported",
      `kernel_modules: berth's own guest loads what ${directory}/image.json lists; Kata's agent would load others`,
    );
  }
  if (description && name === "qemu") return "kata-carried";
  if (HYBRID.includes(name) || existsSync(VHOST_VSOCK)) return "kata";
  throw new VmError(
    "Missing",
    `${VHOST_VSOCK} is not there, by which Kata's agent in ${path} would be reached; load vhost_vsock, take a hypervisor with a vsock of its own ([hypervisor.clh]), or an image made by berth-vm build-image`,
  );
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
