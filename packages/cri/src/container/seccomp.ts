/** Which seccomp profile a container gets. */
import { readFile } from "node:fs/promises";
import { defaultSeccomp } from "@berth/kernel";
import { cri, type oci } from "@berth/spec";
import { invalid } from "../errors.ts";

const { RuntimeDefault, Unconfined, Localhost } = cri.SecurityProfile_ProfileType;

/**
 * undefined: unconfined. What a pod gets that says nothing is `unset`, as in unset_seccomp_profile: unconfined, unless the node's
 * configuration says otherwise; the kubelet's SeccompDefault says RuntimeDefault.
 */
export async function seccompOf(
  security: Pick<cri.LinuxContainerSecurityContext, "privileged" | "seccomp" | "seccompProfilePath"> | undefined,
  capabilities: readonly string[],
  unset: string,
): Promise<oci.LinuxSeccomp | undefined> {
  if (security?.privileged) return undefined;
  const profile = security?.seccomp ?? fromPath(security?.seccompProfilePath || unset);
  if (!profile || profile.profileType === Unconfined) return undefined;
  if (profile.profileType === RuntimeDefault) return defaultSeccomp(capabilities);
  return await localProfile(profile.localhostRef);
}

/** The deprecated string form: "runtime/default", "unconfined", "localhost/<path>". */
function fromPath(path: string): Pick<cri.SecurityProfile, "profileType" | "localhostRef"> | undefined {
  if (path === "" || path === "unconfined") return undefined;
  if (path === "runtime/default" || path === "docker/default") return { profileType: RuntimeDefault, localhostRef: "" };
  if (path.startsWith("localhost/")) return { profileType: Localhost, localhostRef: path.slice("localhost/".length) };
  throw invalid(
    `linux.security_context.seccomp_profile_path: "${path}" is none of runtime/default, unconfined, localhost/PATH`,
  );
}

async function localProfile(path: string): Promise<oci.LinuxSeccomp> {
  const field = "linux.security_context.seccomp.localhost_ref";
  if (!path.startsWith("/")) throw invalid(`${field}: "${path}" is not an absolute path`);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw invalid(`${field}: cannot read the profile: ${(error as Error).message}`);
  }
  try {
    return JSON.parse(text) as oci.LinuxSeccomp;
  } catch (error) {
    throw invalid(`${field}: ${path} is not JSON: ${(error as Error).message}`);
  }
}
