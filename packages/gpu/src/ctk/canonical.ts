/** A command line with nvidia-ctk's other names of flags replaced by one, and flags that mean the same everywhere before the command. */

/** By command. */
const OTHER_NAMES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "cdi generate": {
    "--discovery-mode": "--mode",
    "--nvidia-ctk-path": "--nvidia-cdi-hook-path",
    "--cdi-vendor": "--vendor",
    "--cdi-class": "--class",
    "--disable-hooks": "--disable-hook",
    "--enable-hooks": "--enable-hook",
    "--feature-flags": "--feature-flag",
    "--device-ids": "--device-id",
    "--device": "--device-id",
    "--devices": "--device-id",
  },
  config: { "--config": "--config-file" },
  "runtime configure": {
    "--runtime-path": "--nvidia-runtime-path",
    "--set-as-default": "--nvidia-set-as-default",
    "--cdi.enable": "--cdi.enabled",
    "--enable-cdi": "--cdi.enabled",
  },
  "system create-device-nodes": { "--driver-root": "--root" },
};

const GLOBAL_SWITCHES = ["-d", "--debug", "--quiet"];
const GLOBAL_VALUE = "--config";

export function canonical(argv: readonly string[]): string[] {
  const at = commandAt(argv);
  if (argv[at] === "hook") return [...argv];
  const two = argv.slice(at, at + 2).join(" ");
  const names = OTHER_NAMES[two] ?? OTHER_NAMES[argv[at] ?? ""] ?? {};
  const renamed = argv.slice(at).map((arg) => rename(arg, names));
  // An engine's configuration is another than the toolkit's.
  const [before, after] = lifted(renamed, two !== "runtime configure");
  return [...argv.slice(0, at), ...before, ...after];
}

function commandAt(argv: readonly string[]): number {
  const at = argv.findIndex((arg, index) => !arg.startsWith("-") && argv[index - 1] !== GLOBAL_VALUE);
  return at < 0 ? argv.length : at;
}

function rename(arg: string, names: Readonly<Record<string, string>>): string {
  const equals = arg.indexOf("=");
  const name = equals < 0 ? arg : arg.slice(0, equals);
  const other = names[name];
  return other === undefined ? arg : `${other}${arg.slice(name.length)}`;
}

function lifted(args: readonly string[], withValue: boolean): [before: string[], after: string[]] {
  const before: string[] = [];
  const after: string[] = [];
  for (let at = 0; at < args.length; at++) {
    const arg = args[at] ?? "";
    if (GLOBAL_SWITCHES.includes(arg) || (withValue && arg.startsWith(`${GLOBAL_VALUE}=`))) before.push(arg);
    else if (withValue && arg === GLOBAL_VALUE) before.push(arg, ...args.slice(++at, at + 1));
    else after.push(arg);
  }
  return [before, after];
}
