/** Where the kubelet and its plugins find each other. */
import { dirname } from "node:path";

export const KUBELET_SOCKET = "/var/lib/kubelet/device-plugins/kubelet.sock";

/** The directory of the plugins' own sockets. `kubelet`: its socket; "": no kubelet is told. */
export const socketDirectory = (kubelet: string): string => dirname(kubelet || KUBELET_SOCKET);
