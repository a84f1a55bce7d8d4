/** A container's capabilities: the engines' default set, changed by the pod's add and drop lists. */
import { capabilityNames } from "@berth/kernel";
import type { cri, oci } from "@berth/spec";
import { invalid } from "../errors.ts";

/** The set that Docker, containerd and CRI-O's ancestors grant by default. */
const DEFAULT = [
  "CHOWN",
  "DAC_OVERRIDE",
  "FSETID",
  "FOWNER",
  "MKNOD",
  "NET_RAW",
  "SETGID",
  "SETUID",
  "SETFCAP",
  "SETPCAP",
  "NET_BIND_SERVICE",
  "SYS_CHROOT",
  "KILL",
  "AUDIT_WRITE",
].map((name) => `CAP_${name}`);

/** `defaults`: where nothing is asked for. Inheritable stays empty (CVE-2022-29162); ambient holds only what was asked for. */
export function capabilitiesOf(
  security: cri.LinuxContainerSecurityContext | undefined,
  defaults: readonly string[] = DEFAULT,
): oci.LinuxCapabilities {
  const { addCapabilities = [], dropCapabilities = [], addAmbientCapabilities = [] } = security?.capabilities ?? {};
  const known = capabilityNames();
  const names = (list: readonly string[], field: string): string[] =>
    list.map((name) => canonical(name, known, `linux.security_context.capabilities.${field}`));
  const add = names(addCapabilities, "add_capabilities");
  const drop = names(dropCapabilities, "drop_capabilities");
  const ambient = names(addAmbientCapabilities, "add_ambient_capabilities");
  let granted = new Set(security?.privileged || add.includes("ALL") ? known : defaults);
  if (drop.includes("ALL")) granted = new Set(add.includes("ALL") ? known : []);
  if (!security?.privileged) for (const name of drop) granted.delete(name);
  for (const name of [...add, ...ambient]) if (name !== "ALL") granted.add(name);
  const list = [...granted].filter((name) => known.includes(name));
  return { bounding: list, effective: list, permitted: list, inheritable: ambient, ambient };
}

/** "sys_admin", "SYS_ADMIN" and "CAP_SYS_ADMIN" are the same; a name that this kernel does not know is an error. */
function canonical(name: string, known: readonly string[], field: string): string {
  const upper = name.toUpperCase();
  if (upper === "ALL") return upper;
  const full = upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
  if (!known.includes(full)) throw invalid(`${field}: unknown capability "${name}"`);
  return full;
}
