/** Self-signed certificates by openssl. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** Writes NAME.pem and NAME.key; undefined: openssl cannot. `subject`: "IP:127.0.0.1" or "DNS:…". */
export function certificate(
  directory: string,
  name: string,
  subject = "IP:127.0.0.1",
): { readonly cert: Buffer; readonly key: Buffer } | undefined {
  const args = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  const files = ["-keyout", `${directory}/${name}.key`, "-out", `${directory}/${name}.pem`];
  const made = spawnSync("openssl", [
    ...args,
    ...files,
    "-subj",
    `/CN=${name}`,
    "-addext",
    `subjectAltName=${subject}`,
  ]);
  if (made.status !== 0) return undefined;
  return { cert: readFileSync(join(directory, `${name}.pem`)), key: readFileSync(join(directory, `${name}.key`)) };
}
