import type { Command } from "commander";
import { probeCgroups } from "@berth/kernel";
import { cri } from "@berth/spec";
import { examine, type Finding, type Patient } from "../doctor/checks.ts";
import { thisMachine } from "../doctor/machine.ts";
import { EXIT, Failure } from "../failure.ts";
import { CallError } from "../call-error.ts";
import { printJson } from "../json.ts";
import type { Session } from "../session.ts";
import { printLine } from "../shell.ts";
import { printable } from "../table.ts";

const HELP = `
Looks at what a Kubernetes node needs: kernel, cgroups, file systems, CNI, forwarding, limits, clock, disk, and berthd itself; says
what is wrong and the command that mends it. Needs no running berthd.
--json prints a list of: state (ok, warning, bad), what, found, mend.
Exit code: 1 if something is bad.`;

const SIGNS = { ok: "✔", warning: "!", bad: "✖" } as const;
const DEFAULT_ROOT = "/var/lib/berth";

export function define(command: Command, session: Session): void {
  command
    .usage("[options]")
    .option("--json", "a JSON list, for scripts")
    .addHelpText("after", HELP)
    .action(({ json }: { json?: boolean }) => doctor(session, json === true));
}

async function doctor(session: Session, json: boolean): Promise<void> {
  const { findings: daemon, ...known } = await askDaemon(session);
  const findings = [...daemon, ...(await examine({ machine: thisMachine, cgroups: probeCgroups(), ...known }))];
  if (findings.some(({ state }) => state === "bad")) session.exitCode = EXIT.failure;
  if (json) return printJson(session.shell, findings);
  for (const { state, what, found, mend } of findings) {
    printLine(session.shell, printable(`${SIGNS[state]} ${what}: ${found}`));
    if (mend !== undefined) printLine(session.shell, printable(`    mend: ${mend}`));
  }
}

interface Asked extends Pick<Patient, "root" | "driver"> {
  readonly findings: readonly Finding[];
}

/** A daemon that does not answer is a finding, not a failure. */
async function askDaemon(session: Session): Promise<Asked> {
  try {
    const client = await session.connect();
    const [info, { status }, { linux }] = await Promise.all([
      client.berth.info({}),
      client.runtime.status({}),
      client.runtime.runtimeConfig({}),
    ]);
    const conditions = (status?.conditions ?? []).map(({ type, status: well, message }): Finding => ({
      state: well ? "ok" : "bad",
      what: type,
      found: well ? "yes" : message,
    }));
    const warnings = info.warnings.map((found): Finding => ({ state: "warning", what: "berthd", found }));
    return {
      root: info.root,
      driver: linux?.cgroupDriver === cri.CgroupDriver.SYSTEMD ? "systemd" : "cgroupfs",
      findings: [
        { state: "ok", what: "berthd", found: `${info.version}, pid ${info.pid}` },
        ...conditions,
        ...warnings,
      ],
    };
  } catch (error) {
    if (!(error instanceof Failure) && !(error instanceof CallError)) throw error;
    const mend = "systemctl start berthd; its log: journalctl -u berthd";
    const findings: Finding[] = [{ state: "bad", what: "berthd", found: error.message, mend }];
    return { root: DEFAULT_ROOT, driver: undefined, findings };
  }
}
