/** Network interfaces of the host that become the container's (config-linux.md, "Network Devices"). */
import { NO_SLOT } from "@berth/kernel";
import type { oci } from "@berth/spec";
import type { PlanBuilder } from "./builder.ts";
import { PlanError } from "./context.ts";
import type { Namespaces } from "./namespaces.ts";

const FIELD = "linux.netDevices";
/** IFNAMSIZ, with its NUL. */
const NAME_ROOM = 16;

/**
 * Orders of the stage, before it joins anything: into the namespace that is joined, or for the one that clone makes. The
 * kernel gives an interface back to the host when its namespace ends.
 */
export function moveNetDevices(
  plan: PlanBuilder,
  spec: oci.Spec,
  namespaces: Namespaces,
  slots: ReadonlyMap<oci.NamespaceType, number>,
): void {
  const devices = Object.entries(spec.linux?.netDevices ?? {});
  if (devices.length === 0) return;
  if (!namespaces.all.has("network"))
    throw new PlanError(FIELD, "needs a network namespace: the interface is on the host already");
  const isJoined = namespaces.joined.some(({ type }) => type === "network");
  if (!isJoined && namespaces.joined.some(({ type }) => type === "user"))
    throw new PlanError(FIELD, "a new network namespace of a joined user namespace cannot be given interfaces");
  const names = new Set<string>();
  for (const [name, { name: wanted = "" }] of devices) {
    const newName = wanted === "" ? name : wanted;
    checkName(name, `${FIELD}[${JSON.stringify(name)}]`);
    checkName(newName, `${FIELD}[${JSON.stringify(name)}].name`);
    if (names.has(newName)) throw new PlanError(FIELD, `two interfaces are to be called ${newName}`);
    names.add(newName);
    const nsSlot = isJoined ? (slots.get("network") ?? NO_SLOT) : NO_SLOT;
    plan.add("move_link", { name, newName, nsSlot }, `${FIELD}[${JSON.stringify(name)}]`);
  }
}

/** dev_valid_name() of the kernel. */
function checkName(name: string, field: string): void {
  if (name === "" || name === "." || name === ".." || Buffer.byteLength(name) >= NAME_ROOM || /[/:\s%]/.test(name))
    throw new PlanError(field, `${JSON.stringify(name)} is not the name of a network interface`);
}
