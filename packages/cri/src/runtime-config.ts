/** UpdateRuntimeConfig: the kubelet says which addresses the node's pods have; where there is a template, a network is made of it. */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { renderTemplate, templateData } from "@berth/network";
import { cri } from "@berth/spec";
import type { CriContext } from "./context.ts";
import { invalid, precondition } from "./errors.ts";

/** containerd's name for it, so that a node that changes its runtime keeps one network. */
const FILE = "10-containerd-net.conflist";

export async function updateRuntimeConfig(
  context: CriContext,
  request: cri.UpdateRuntimeConfigRequest,
): Promise<cri.UpdateRuntimeConfigResponse> {
  const cidrs = request.runtimeConfig?.networkConfig?.podCidr ?? "";
  const { cniTemplate } = context.config;
  if (cidrs !== "") checkCidrs(cidrs);
  // A network that is there, by whomever, is not overwritten.
  if (cidrs !== "" && cniTemplate && !context.cni.status().ready) await writeNetwork(context, cniTemplate, cidrs);
  return create(cri.UpdateRuntimeConfigResponseSchema, {});
}

function checkCidrs(cidrs: string): void {
  for (const cidr of cidrs.split(",")) {
    const [address = "", length = ""] = cidr.trim().split("/");
    const most = { 4: 32, 6: 128 }[isIP(address)] ?? -1;
    if (!/^\d{1,3}$/.test(length) || Number(length) > most)
      throw invalid(`runtime_config.network_config.pod_cidr: "${cidr}" is not of the form ADDRESS/LENGTH`);
  }
}

async function writeNetwork(
  { cni }: CriContext,
  { file, confDir }: NonNullable<CriContext["config"]["cniTemplate"]>,
  cidrs: string,
): Promise<void> {
  let text: string;
  try {
    text = renderTemplate(await readFile(file, "utf8"), templateData(cidrs));
    JSON.parse(text);
  } catch (error) {
    throw precondition(`cni.conf_template ${file}: ${(error as Error).message}`);
  }
  await mkdir(confDir, { recursive: true, mode: 0o755 });
  // The watch takes files that end in .conflist alone.
  const temporary = join(confDir, `${FILE}.berth-new`);
  await writeFile(temporary, text, { mode: 0o644 });
  await rename(temporary, join(confDir, FILE));
  await cni.reload();
}
