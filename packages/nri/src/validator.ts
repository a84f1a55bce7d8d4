/** The validator that every runtime has built in, and nobody is asked by unless the configuration enables it (NRI, default-validator). */
import {
  Field,
  SecurityProfile_ProfileType as PROFILE,
  type ValidateContainerAdjustmentRequest,
} from "@berth/spec/nri";

/** Names as in the file's `default_validator`. */
export interface ValidatorSettings {
  readonly rejectOciHookAdjustment: boolean;
  readonly rejectRuntimeDefaultSeccompAdjustment: boolean;
  readonly rejectUnconfinedSeccompAdjustment: boolean;
  readonly rejectCustomSeccompAdjustment: boolean;
  readonly rejectNamespaceAdjustment: boolean;
  readonly rejectSysctlAdjustment: boolean;
  /** By name, or index and name. */
  readonly requiredPlugins: readonly string[];
  /** An annotation's key; "": none is tolerated. */
  readonly tolerateMissingPluginsAnnotation: string;
}

/** More that a pod, or one of its containers, requires: a list in YAML. */
const REQUIRED = "required-plugins.noderesource.dev";

/** Throws what is wrong with the adjustment. */
export async function validate(
  settings: ValidatorSettings,
  request: ValidateContainerAdjustmentRequest,
): Promise<void> {
  const { container } = request;
  const owners = request.owners?.owners[container?.id ?? ""];
  const simple = (field: Field): string | undefined => owners?.simple[field];
  const entries = (field: Field): [string, string][] => Object.entries(owners?.compound[field]?.owners ?? {});
  const hooks = simple(Field.OciHooks);
  if (settings.rejectOciHookAdjustment && hooks !== undefined)
    throw rejected(`${hooks.includes(",") ? "plugins" : "plugin"} "${hooks}" attempted restricted OCI hook injection`);
  const seccomp = simple(Field.SeccompPolicy);
  if (seccomp !== undefined) checkSeccomp(settings, seccomp, container?.linux?.seccompProfile?.profileType);
  const namespaces = entries(Field.Namespace).map(([type, plugin]) => `"${plugin}" (namespace "${type}")`);
  if (settings.rejectNamespaceAdjustment && namespaces.length > 0)
    throw rejected(`attempted restricted namespace adjustment by plugin(s) ${namespaces.join(", ")}`);
  await checkRequired(settings, request);
  const sysctls = entries(Field.Sysctl).map(([, plugin]) => plugin);
  if (settings.rejectSysctlAdjustment && sysctls.length > 0)
    throw rejected(`attempted restricted sysctl adjustment by plugin(s) ${sysctls.join(", ")}`);
}

const rejected = (what: string): Error => new Error(`validation error: ${what}`);

/** `profile`: what the container was asked for with; undefined: nothing. */
function checkSeccomp(settings: ValidatorSettings, plugin: string, profile: PROFILE | undefined): void {
  const [what, isRejected] =
    profile === PROFILE.RUNTIME_DEFAULT
      ? ["runtime default", settings.rejectRuntimeDefaultSeccompAdjustment]
      : profile === PROFILE.LOCALHOST
        ? ["custom", settings.rejectCustomSeccompAdjustment]
        : ["unconfined", settings.rejectUnconfinedSeccompAdjustment];
  if (isRejected) throw rejected(`plugin ${plugin} attempted restricted ${what} seccomp policy adjustment`);
}

async function checkRequired(settings: ValidatorSettings, request: ValidateContainerAdjustmentRequest): Promise<void> {
  const { tolerateMissingPluginsAnnotation: tolerating } = settings;
  const tolerated = tolerating === "" ? undefined : annotation(request, tolerating);
  if (tolerated !== undefined && isTrue(tolerating, tolerated)) return;
  const required = [...settings.requiredPlugins];
  const more = annotation(request, REQUIRED);
  if (more !== undefined) required.push(...(await listOf(more)));
  const there = new Set(request.plugins.flatMap(({ name, index }) => [name, `${index}-${name}`]));
  const missing = required.filter((name) => !there.has(name));
  if (missing.length > 0)
    throw rejected(`required ${missing.length > 1 ? "plugins" : "plugin"} "${missing.join(",")}" not present`);
}

/** The container's own counts more than the pod's. */
function annotation({ pod, container }: ValidateContainerAdjustmentRequest, key: string): string | undefined {
  const { annotations = {} } = pod ?? {};
  return annotations[`${key}/container.${container?.name ?? ""}`] ?? annotations[`${key}/pod`] ?? annotations[key];
}

function isTrue(key: string, value: string): boolean {
  if (/^(1|t|T|TRUE|true|True)$/.test(value)) return true;
  if (/^(0|f|F|FALSE|false|False)$/.test(value)) return false;
  throw new Error(`invalid ${key} annotation "${value}": neither true nor false`);
}

async function listOf(value: string): Promise<string[]> {
  const { parse } = await import("yaml");
  let list: unknown;
  try {
    list = parse(value);
  } catch (error) {
    throw new Error(`invalid ${REQUIRED} annotation "${value}": ${(error as Error).message}`, { cause: error });
  }
  if (!Array.isArray(list) || !list.every((name) => typeof name === "string"))
    throw new Error(`invalid ${REQUIRED} annotation "${value}": not a list of names`);
  return list;
}
