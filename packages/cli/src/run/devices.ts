/** `--device`: a device node of the host, or a CDI device by its qualified name. */
import { Failure } from "../failure.ts";

export interface DeviceNode {
  readonly hostPath: string;
  readonly containerPath: string;
  readonly permissions: string;
}

export type DeviceRequest = { readonly node: DeviceNode } | { readonly cdi: string };

/** "/dev/fuse", "/dev/sda:/dev/xvda:r", or "vendor.com/class=name". */
export function parseDevice(text: string): DeviceRequest {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]*\/[A-Za-z0-9][A-Za-z0-9._-]*=\S+$/.test(text)) return { cdi: text };
  const [hostPath = "", second, third, ...more] = text.split(":");
  const permissionsOnly = second !== undefined && third === undefined && /^[rwm]+$/.test(second);
  const containerPath = second === undefined || permissionsOnly ? hostPath : second;
  const permissions = (permissionsOnly ? second : third) ?? "rwm";
  if (
    !hostPath.startsWith("/") ||
    !containerPath.startsWith("/") ||
    !/^[rwm]{1,3}$/.test(permissions) ||
    more.length > 0
  ) {
    throw new Failure(
      `--device "${text}": use /dev/source[:/dev/target][:rwm], or a CDI device as in nvidia.com/gpu=0`,
    );
  }
  return { node: { hostPath, containerPath, permissions } };
}
