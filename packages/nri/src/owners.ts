/** Which plugin has set what of which container: what one has set no other may set too, unless it removes it first. */
import { create } from "@bufbuild/protobuf";
import {
  CompoundFieldOwnersSchema,
  type Field,
  FieldOwnersSchema,
  FieldSchema,
  type FieldOwners,
  type OwningPlugins,
  OwningPluginsSchema,
} from "@berth/spec/nri";
import { marked, removal } from "./marks.ts";

/** Two plugins want different things of one container, and nobody can say which of them is right. */
export class Conflict extends Error {
  override readonly name = "Conflict";
}

export class Owners {
  /** As validators see it. */
  readonly message: OwningPlugins = create(OwningPluginsSchema);

  /** Throws Conflict. */
  claim(container: string, field: Field, plugin: string): void {
    const { simple } = this.#of(container);
    check(plugin, simple[field], field);
    simple[field] = plugin;
  }

  /** As claim(), of one entry of a list or map. */
  claimEntry(container: string, field: Field, entry: string, plugin: string): void {
    const owners = this.#entries(container, field);
    check(plugin, owners[entry], field, entry);
    owners[entry] = plugin;
  }

  /** What others have set is removed: `plugin`, and nobody else, may set it anew. */
  clear(container: string, field: Field, plugin: string): void {
    this.#of(container).simple[field] = removal(plugin);
  }

  clearEntry(container: string, field: Field, entry: string, plugin: string): void {
    this.#entries(container, field)[entry] = removal(plugin);
  }

  /** For what several plugins may add to. */
  join(container: string, field: Field, plugin: string): void {
    const { simple } = this.#of(container);
    simple[field] = simple[field] === undefined ? plugin : `${simple[field]},${plugin}`;
  }

  #of(container: string): FieldOwners {
    return (this.message.owners[container] ??= create(FieldOwnersSchema));
  }

  #entries(container: string, field: Field): Record<string, string> {
    return (this.#of(container).compound[field] ??= create(CompoundFieldOwnersSchema)).owners;
  }
}

function check(plugin: string, holder: string | undefined, field: Field, entry = ""): void {
  if (holder === undefined) return;
  const [other, isCleared] = marked(holder);
  if (isCleared && other === plugin) return;
  const what = FieldSchema.value[field]?.name ?? String(field);
  throw new Conflict(`plugins "${plugin}" and "${other}" both tried to set ${`${what} ${entry}`.trim()}`);
}
