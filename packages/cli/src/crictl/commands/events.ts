import { cri } from "@berth/spec";
import type { CommandSpec } from "../command.ts";
import { CrictlError, wrap } from "../errors.ts";
import { string } from "../flags.ts";
import { messageJson, printMessage } from "../output.ts";

export const events: CommandSpec = {
  name: "events",
  aliases: ["event"],
  usage: "Stream the events of containers",
  shortOptions: true,
  flags: [
    string("output", "Output format, One of: json|yaml|go-template", { aliases: ["o"], value: "json" }),
    string(
      "template",
      "The template string is only used when output is go-template; The Template format is golang template",
    ),
  ],
  async run(context) {
    const { flags } = context;
    if (flags.args.length > 0) return context.help();
    const [format, template] = [flags.string("output"), flags.string("template")];
    if (format !== "json" && format !== "yaml" && format !== "go-template")
      throw new CrictlError(`don't support ${JSON.stringify(format)} format`);
    if (format !== "go-template" && template !== "")
      throw new CrictlError(`template can't be used with ${JSON.stringify(format)} format`);
    const { execute, validate } = await import("../go/template.ts");
    if (format === "go-template") await wrap("failed to parse go-template", () => validate(template));
    const runtime = await context.runtime();
    await wrap("getting container events", async () => {
      for await (const event of runtime.getContainerEvents({})) {
        if (format === "go-template")
          context.print(execute(template, messageJson(cri.ContainerEventResponseSchema, event)));
        else printMessage(context, cri.ContainerEventResponseSchema, event, format);
      }
    });
  },
};
