/** CDI: the devices that a container's configuration asks for by name, put into its OCI configuration. */
import { status } from "@grpc/grpc-js";
import type { Registry } from "@berth/cdi";
import { OrderError } from "@berth/kernel";
import { PlanError } from "@berth/runtime";
import type { cri, oci } from "@berth/spec";
import type { CriContext } from "../context.ts";
import { CriError, invalid, precondition } from "../errors.ts";
import type { Log } from "../log.ts";

const ANNOTATION_PREFIX = "cdi.k8s.io/";

/** The node's CDI specifications, read when a container first asks for a device: most nodes have none. */
export class CdiSpecs {
  readonly #log: Log;
  #open: { readonly dirs: readonly string[]; readonly registry: Promise<Registry> } | undefined;
  #told: Registry["errors"] | undefined;

  constructor(log: Log) {
    this.#log = log;
  }

  /** Rejects with CdiError, UnresolvedError: then nothing was injected. */
  async inject(dirs: readonly string[], spec: oci.Spec, devices: readonly string[]): Promise<oci.Spec> {
    const registry = await this.#registry(dirs);
    try {
      return await registry.inject(spec, devices);
    } finally {
      this.#tell(registry.errors);
    }
  }

  #registry(dirs: readonly string[]): Promise<Registry> {
    if (this.#open?.dirs.join("\0") !== dirs.join("\0")) {
      const registry = import("@berth/cdi").then((cdi) => cdi.Registry.open({ dirs }));
      this.#open = { dirs, registry };
    }
    return this.#open.registry;
  }

  /** Once for each state of the directories. */
  #tell(errors: Registry["errors"]): void {
    if (errors === this.#told) return;
    this.#told = errors;
    for (const [file, found] of errors)
      for (const error of found) this.#log.warn({ file }, `cdi specification: ${error.message}`);
  }
}

/** `spec` with the devices of `CDI_devices`, and then those of the annotations that were not named there. */
export async function injectDevices(
  context: CriContext,
  config: cri.ContainerConfig,
  spec: oci.Spec,
): Promise<oci.Spec> {
  if (!asksForDevices(config)) return spec;
  if (!context.config.enableCdi) {
    const asked = Object.keys(config.annotations).find((key) => key.startsWith(ANNOTATION_PREFIX));
    throw disabled(config.CDIDevices.length > 0 ? "config.CDI_devices" : `config.annotations["${asked}"]`);
  }
  return await inject(context, spec, await devicesOf(config));
}

/** `spec` with the devices that NRI plugins name. */
export async function injectNamed(context: CriContext, spec: oci.Spec, devices: readonly string[]): Promise<oci.Spec> {
  if (!context.config.enableCdi) throw disabled("adjust.CDI_devices");
  return await inject(context, spec, devices);
}

const disabled = (field: string): CriError =>
  precondition(`${field}: CDI is disabled on this node (enable_cdi in berthd's configuration)`);

async function inject(context: CriContext, spec: oci.Spec, devices: readonly string[]): Promise<oci.Spec> {
  try {
    return await context.cdi.inject(context.config.cdiSpecDirs, spec, devices);
  } catch (error) {
    const { message } = error as Error;
    throw new CriError(status.FAILED_PRECONDITION, `CDI device injection failed: ${message}`, { cause: error });
  }
}

/** `error` with the specification's file, device and field before it, where what failed came of one. */
export async function blamed(error: unknown, config: cri.ContainerConfig, spec: oci.Spec): Promise<unknown> {
  const field = error instanceof OrderError ? error.because : error instanceof PlanError ? error.field : undefined;
  if (field === undefined || !asksForDevices(config)) return error;
  const { originAt } = await import("@berth/cdi");
  const origin = originAt(spec, field);
  if (origin === undefined) return error;
  if (error instanceof PlanError) return Object.assign(new PlanError(origin, error.message), { cause: error });
  const { message } = error as OrderError;
  return Object.assign(new OrderError(`${origin}: ${message}`, error as OrderError), { cause: error });
}

const asksForDevices = ({ CDIDevices, annotations }: cri.ContainerConfig): boolean =>
  CDIDevices.length > 0 || Object.keys(annotations).some((key) => key.startsWith(ANNOTATION_PREFIX));

async function devicesOf(config: cri.ContainerConfig): Promise<string[]> {
  const { devicesOfAnnotations, parseQualifiedName } = await import("@berth/cdi");
  const named = config.CDIDevices.map(({ name }, index) => {
    try {
      parseQualifiedName(name);
    } catch (error) {
      throw invalid(`config.CDI_devices[${index}]: ${(error as Error).message}`);
    }
    return name;
  });
  try {
    return [...new Set([...named, ...devicesOfAnnotations(config.annotations)])];
  } catch (error) {
    throw invalid(`config.annotations: failed to parse CDI device annotations: ${(error as Error).message}`);
  }
}
