/** Requests for devices in annotations: `cdi.k8s.io/<plugin>_<device id>: <qualified names, comma-separated>`. */
import { isQualifiedName, parseQualifiedName } from "./names.ts";

export const ANNOTATION_PREFIX = "cdi.k8s.io/";
/** A Kubernetes annotation's name, without its prefix. */
const MAX_NAME = 63;

/**
 * The devices that `annotations` ask for, in the order of their keys (which Kubernetes does not keep, so that only within
 * one annotation does order mean anything). One name that is not qualified fails the whole. Throws Error naming the key.
 */
export function devicesOfAnnotations(
  annotations: Readonly<Record<string, string>>,
  prefixes: readonly string[] = [ANNOTATION_PREFIX],
): string[] {
  const keys = Object.keys(annotations).filter((key) => prefixes.some((prefix) => key.startsWith(prefix)));
  return keys.sort().flatMap((key) =>
    (annotations[key] ?? "").split(",").map((name) => {
      if (!isQualifiedName(name))
        throw new Error(`annotation "${key}": invalid CDI device name ${JSON.stringify(name)}`);
      return name;
    }),
  );
}

/** The key under which a plugin ("vendor.device-type") asks for one of its devices. Throws Error. */
export function annotationKey(plugin: string, deviceId: string): string {
  if (plugin === "") throw new Error("invalid plugin name, empty");
  if (deviceId === "") throw new Error("invalid deviceID, empty");
  const name = `${plugin}_${deviceId.replaceAll("/", "_")}`;
  if (name.length > MAX_NAME) throw new Error(`invalid plugin+deviceID ${JSON.stringify(name)}, too long`);
  const bad = [...name].find((character, index) => {
    const inside = index > 0 && index < name.length - 1;
    return !(inside ? /[A-Za-z0-9_.-]/ : /[A-Za-z0-9]/).test(character);
  });
  if (bad !== undefined) throw new Error(`invalid name ${JSON.stringify(name)}, invalid character '${bad}'`);
  return ANNOTATION_PREFIX + name;
}

/** Throws Error when one of the devices is not qualified. */
export function annotationValue(devices: readonly string[]): string {
  for (const device of devices) parseQualifiedName(device);
  return devices.join(",");
}
