/** Templates of one daemon or shim: found for a pod, made behind the first one that has none, given up where they do not work. */
import type { VmSettings } from "../configuration/settings.ts";
import type { Hypervisor, Machine } from "../hypervisor/machine.ts";
import type { VmHost } from "../sandbox/host.ts";
import { namesIn } from "../names-in.ts";
import { removeMachine } from "../sandbox/remove.ts";
import { claimTemplate } from "./claim.ts";
import { templateKey, templateProblem, type TemplateKey } from "./key.ts";
import { makeTemplate } from "./make.ts";
import { isAbandoned } from "./names.ts";
import { findTemplate, removeStale, removeTemplate, type Template } from "./store.ts";

/** After so many failures machines of these files and settings boot each for itself. */
const ATTEMPTS = 2;

export interface Wanted {
  readonly settings: VmSettings;
  readonly accelerator: "kvm" | "tcg";
  readonly hypervisor: Hypervisor;
  readonly machine: Machine;
}

/** What a pod's machine may be copied from; `template` undefined: it is not made yet. */
export interface Found {
  readonly key: TemplateKey;
  readonly place: string;
  readonly template: Template | undefined;
}

export class Factory {
  readonly #place: string;
  readonly #failures = new Map<string, number>();
  readonly #making = new Map<string, Promise<void>>();
  readonly #stop = new AbortController();
  #swept: Promise<void> | undefined;

  /** `place`: where templates are, for settings that do not name one (template_path). */
  constructor(place: string) {
    this.#place = place;
  }

  placeOf = ({ factory }: VmSettings): string => factory.template_path || this.#place;

  /** Undefined: machines of these settings are not copies. What goes wrong is told, and costs nobody a pod. */
  async find(vm: VmHost, wanted: Wanted): Promise<Found | undefined> {
    if (templateProblem(wanted.settings) !== undefined) return undefined;
    const place = this.placeOf(wanted.settings);
    await this.sweep(vm);
    try {
      const key = await templateKey(wanted.hypervisor, wanted.machine);
      if (this.#isHopeless(key.digest)) return undefined;
      return { key, place, template: await findTemplate(place, key) };
    } catch (error) {
      vm.log("warn", `templates of virtual machines in ${place}: ${(error as Error).message}`);
      return undefined;
    }
  }

  /** Once: what daemons that are gone have begun, and machines that waited for their pods. */
  async sweep(vm: VmHost): Promise<void> {
    this.#swept ??= sweep(vm, this.#place).catch((error: unknown) => {
      vm.log("warn", `what is left of templates of virtual machines: ${(error as Error).message}`);
    });
    await this.#swept;
  }

  /** In the background, once, and by one of all processes. What goes wrong is told, and costs nobody a pod. */
  make(vm: VmHost, wanted: Wanted, found: Found): void {
    const { digest } = found.key;
    if (this.#making.has(digest) || this.#isHopeless(digest) || this.#stop.signal.aborted) return;
    const made = this.#make(vm, wanted, found).finally(() => this.#making.delete(digest));
    this.#making.set(digest, made);
  }

  /** Now, where there is none yet. Rejects with what went wrong. */
  async init(vm: VmHost, wanted: Wanted): Promise<void> {
    const found = await this.find(vm, wanted);
    if (found && !found.template) await makeTemplate(vm, { ...wanted, ...found, signal: this.#stop.signal });
  }

  /** Resolves when this one is not being made. */
  async made({ digest }: TemplateKey): Promise<void> {
    await this.#making.get(digest);
  }

  /** Resolves when no template is being made. */
  async idle(): Promise<void> {
    await Promise.all(this.#making.values());
  }

  /** A copy of it did not come to life. */
  async fail(vm: VmHost, { key, template }: Found & { template: Template }, problem: string): Promise<void> {
    this.#count(vm, key, `no machine could be copied from template ${template.directory}`, problem);
    await removeTemplate(template);
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error("whoever makes the template ends"));
    await this.idle();
  }

  #isHopeless(digest: string): boolean {
    return (this.#failures.get(digest) ?? 0) >= ATTEMPTS;
  }

  async #make(vm: VmHost, wanted: Wanted, { key, place }: Found): Promise<void> {
    const { signal } = this.#stop;
    try {
      await using claim = await claimTemplate(place, key.digest);
      if (!claim || (await findTemplate(place, key))) return;
      await makeTemplate(vm, { ...wanted, key, place, signal });
      await removeStale(place);
    } catch (error) {
      if (!signal.aborted)
        this.#count(vm, key, "no template of virtual machines could be made", (error as Error).message);
    }
  }

  #count(vm: VmHost, { digest }: TemplateKey, what: string, problem: string): void {
    const failures = (this.#failures.get(digest) ?? 0) + 1;
    this.#failures.set(digest, failures);
    const end = failures < ATTEMPTS ? "" : "; machines of this configuration boot each for itself from now on";
    vm.log("warn", `${what}: ${problem}${end}`);
  }
}

async function sweep(vm: VmHost, place: string): Promise<void> {
  for (const name of await namesIn(vm.machines)) if (isAbandoned(name)) await removeMachine(vm, name);
  await removeStale(place);
}
