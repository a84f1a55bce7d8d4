import { cri } from "@berth/spec";
import type { CommandSpec, Context } from "../command.ts";
import { wrap } from "../errors.ts";
import { string } from "../flags.ts";
import { humanSize } from "../go/units.ts";
import { messageJson, printStatuses } from "../output.ts";

export const imagefsinfo: CommandSpec = {
  name: "imagefsinfo",
  usage: "Return image filesystem info",
  shortOptions: true,
  flags: [
    string("output", "Output format, One of: json|yaml|go-template|table", { aliases: ["o"] }),
    string(
      "template",
      "The template string is only used when output is go-template; The Template format is golang template",
    ),
  ],
  async run(context) {
    const images = await context.images();
    const answer = await wrap("image filesystem info request", () => images.imageFsInfo({}));
    const format = context.flags.string("output") || "json";
    if (format === "table") {
      printTable(context, "Container", answer.containerFilesystems);
      return printTable(context, "Image", answer.imageFilesystems);
    }
    const status = messageJson(cri.ImageFsInfoResponseSchema, answer);
    await printStatuses(context, [{ status, info: {} }], format, context.flags.string("template"));
  },
};

function printTable(context: Context, label: string, filesystems: readonly cri.FilesystemUsage[]): void {
  context.print(`${label} Filesystem `);
  for (const [index, { timestamp, usedBytes, inodesUsed, fsId }] of filesystems.entries()) {
    context.print(`TimeStamp[${index}]: ${timestamp}`);
    context.print(`Disk[${index}]: ${humanSize(Number(usedBytes?.value ?? 0n))}`);
    context.print(`Inodes[${index}]: ${inodesUsed?.value ?? 0n}`);
    context.print(`Mountpoint[${index}]: ${fsId?.mountpoint ?? ""}`);
  }
}
