import { existsSync, readFileSync } from "node:fs";
import { Document } from "yaml";
import type { CommandSpec, Context } from "../command.ts";
import { type ConfigFile, OPTION_NAMES, type OptionName, readConfig, setOption, writeConfig } from "../config.ts";
import { CrictlError, wrap } from "../errors.ts";
import { bool, slice, string } from "../flags.ts";
import { table } from "../go/table.ts";
import { CLEAR } from "../watch.ts";

const ARGUMENTS = `[<crictl options>]

EXAMPLES:
   # Set the key "debug" to "true"
   crictl config --set debug=true

   # Set the key "debug" to "true"
   crictl config debug true

   # Get the value of "debug"
   crictl config --get debug

   # Show the full configuration
   crictl config --list

CRICTL OPTIONS:
   runtime-endpoint:      Container Runtime Interface (CRI) runtime endpoint (default: "")
   image-endpoint:        Container Runtime Interface (CRI) image endpoint (default: "")
   timeout:               Timeout of connecting to server (default: 2)
   debug:                 Enable debug output (default: false)
   pull-image-on-create:  Enable pulling image on create requests (default: false)
   disable-pull-on-run:   Disable pulling image on run requests (default: false)
   max-retries:           Max retries for connecting to an explicitly set endpoint (default: 3, 0 to disable, negative for infinite)`;

export const config: CommandSpec = {
  name: "config",
  usage: "Get, set and list crictl configuration options",
  argsUsage: ARGUMENTS,
  shortOptions: true,
  flags: [
    string("get", "Show the option value"),
    slice("set", "Set option (can specify multiple or separate values with commas: opt1=val1,opt2=val2)"),
    bool("list", "Show all option value"),
  ],
  async run(context) {
    const { flags, configFile } = context;
    const file = await wrap("load config file", () => opened(configFile));
    if (flags.isSet("get")) return context.print(String(file.settings[optionOf(flags.string("get"))]));
    if (flags.isSet("set")) {
      for (const pair of flags.slice("set")) {
        const [key = "", value, more] = pair.split("=");
        if (value === undefined || more !== undefined) throw new CrictlError(`incorrectly specified option: ${pair}`);
        setOption(file.settings, optionOf(key), value);
      }
      return writeConfig(configFile, file);
    }
    if (flags.bool("list")) {
      const rows = OPTION_NAMES.map((name) => [name, String(file.settings[name])]);
      return void context.shell.stdout.write(CLEAR + table([["KEY", "VALUE"], ...rows]));
    }
    await setOne(context, file);
  },
};

/** The way it was before there were flags: KEY VALUE. */
async function setOne(context: Context, file: ConfigFile): Promise<void> {
  const [key = "", value = ""] = context.flags.args;
  if (key === "") return context.help();
  context.log(
    "info",
    `No --get, --set or --list provided, setting key ${JSON.stringify(key)} to value ${JSON.stringify(value)}`,
  );
  await wrap(`set ${JSON.stringify(key)} to ${JSON.stringify(value)}`, () =>
    setOption(file.settings, optionOf(key), value),
  );
  writeConfig(context.configFile, file);
}

/** One that is not there, or empty, is made. */
function opened(path: string): ConfigFile {
  if (existsSync(path) && readFileSync(path, "utf8").trim() !== "") return readConfig(path);
  const file = { settings: structuredClone(DEFAULTS), document: new Document({}) };
  if (!existsSync(path)) writeConfig(path, file);
  return file;
}

const DEFAULTS: ConfigFile["settings"] = {
  "runtime-endpoint": "",
  "image-endpoint": "",
  timeout: 0,
  debug: false,
  "pull-image-on-create": false,
  "disable-pull-on-run": false,
  "max-retries": 0,
};

function optionOf(name: string): OptionName {
  const found = OPTION_NAMES.find((each) => each === name);
  if (found === undefined) throw new CrictlError(`no configuration option named ${name}`);
  return found;
}
