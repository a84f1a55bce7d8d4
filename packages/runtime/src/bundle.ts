import type { oci } from "@berth/spec";
export interface Bundle { readonly directory: string; readonly spec: oci.Spec; readonly rootfs: string }
export async function readBundle(directory: string): Promise<Bundle> { throw new Error(directory); }
