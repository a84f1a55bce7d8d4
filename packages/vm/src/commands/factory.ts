/** kata-runtime factory: the template that machines of this configuration are copied from is made, thrown away or told of. */
import { dirname, join } from "node:path";
import type { Command } from "commander";
import { probeHost } from "@berth/kernel";
import { VmError } from "../errors.ts";
import { Factory } from "../factory/factory.ts";
import { templateProblem } from "../factory/key.ts";
import { listWaiting } from "../factory/waiting.ts";
import { listTemplates, removeTemplate } from "../factory/store.ts";
import { machineShape } from "../hypervisor/choose.ts";
import { hypervisorOf } from "../hypervisor/drivers.ts";
import { findAcceleratorOf, guestFilesOf } from "../sandbox/files.ts";
import type { VmHost } from "../sandbox/host.ts";
import type { Context } from "./context.ts";
import { withHand } from "./node.ts";

export function addFactory(program: Command, context: Context): void {
  const factory = program.command("factory").description("manage the template that machines are copied from");
  factory
    .command("init")
    .description("make it now; berthd makes it behind the first pod")
    .action(async () => {
      await withFactory(context, async (own, vm, wanted) => {
        const problem = templateProblem(wanted.settings);
        if (problem !== undefined) throw new VmError("Unsupported", `vm factory is not enabled: ${problem}`);
        await own.init(vm, wanted);
      });
      context.print("vm factory initialized");
    });
  factory
    .command("destroy")
    .description("remove every template; machines that are copies run on")
    .action(async () => {
      for (const template of await listTemplates(await placeOf(context))) await removeTemplate(template);
      context.print("vm factory destroyed");
    });
  factory
    .command("status")
    .description("tell whether there is one for this configuration, and which machines wait for pods")
    .action(async () => {
      await printWaiting(context);
      await withFactory(context, async (own, vm, wanted) => {
        const problem = templateProblem(wanted.settings);
        const found = await own.find(vm, wanted);
        context.print(
          problem === undefined
            ? `vm factory is ${found?.template ? "on" : "off"}`
            : `vm factory not enabled: ${problem}`,
        );
      });
    });
}

/** As kata-runtime's. */
async function printWaiting(context: Context): Promise<void> {
  const waiting = await listWaiting(join(context.options.state, "vm"));
  for (const server of new Set(waiting.map(({ maker }) => maker))) {
    context.print(`VM cache server pid = ${server}`);
    for (const { maker, pid, vcpus, mib } of waiting)
      if (maker === server) context.print(`VM pid = ${pid} Cpu = ${vcpus} Memory = ${mib}MiB`);
  }
}

/** Beside the image, as below berthd's root directory. */
const defaultPlace = ({ options }: Context): string => join(dirname(options.image), "templates");

const placeOf = async (context: Context): Promise<string> =>
  new Factory(defaultPlace(context)).placeOf(await context.settings());

type Work = (factory: Factory, vm: VmHost, wanted: Parameters<Factory["find"]>[1]) => Promise<void>;

async function withFactory(context: Context, work: Work): Promise<void> {
  const settings = await context.settings();
  const { state, image } = context.options;
  await withHand(async (hand) => {
    const vm: VmHost = {
      hand,
      host: await probeHost(hand),
      machines: join(state, "vm"),
      image,
      log: (_level, message) => void context.io.stderr.write(`berth-vm: ${message}\n`),
    };
    const files = await guestFilesOf(vm, settings);
    const { accelerator } = await findAcceleratorOf(vm, settings, files);
    const machine = {
      ...machineShape(settings, files),
      id: "",
      directory: "",
      shares: [],
      nics: [],
      disks: [],
      devices: [],
    };
    await work(new Factory(defaultPlace(context)), vm, {
      settings,
      accelerator,
      hypervisor: hypervisorOf(settings, accelerator),
      machine,
    });
  });
}
