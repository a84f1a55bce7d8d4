/** Machines of pods whose guests do not behave: what is asked of them for everybody's lists. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type GuestRuntime, PodPolicy, type PodMachine } from "@berth/vm";
import type { CriContext } from "../src/context.ts";
import { Machines } from "../src/runtimes/vm/machines.ts";
import type { Sandbox } from "../src/store/records.ts";

test("a guest that hangs or talks nonsense is not asked again at once, and fails no list", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "berth-machines-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const warnings: string[] = [];
  const log = {
    warn: (_: object, message: string) => void warnings.push(message),
    error: (fields: object) => assert.fail(JSON.stringify(fields)),
    debug: () => {},
  };
  const context = { log, config: { cgroupRoot: "/berth" }, host: {} } as unknown as CriContext;
  const sandbox = (id: string): Sandbox => ({ record: { id, config: { annotations: {} } } }) as unknown as Sandbox;
  const machine = {
    directory: dir,
    guest: {},
    settings: {},
    runtime: {},
    ended: new Promise(() => {}),
    close: () => Promise.resolve(),
  };
  const machines = new Machines({ sandboxes: join(dir, "sbs"), policy: join(dir, "none") });
  for (const id of ["good", "bad"]) {
    const policy = await machines.policyOf(sandbox(id).record);
    assert.ok(policy instanceof PodPolicy);
    await machines.add(context, sandbox(id), machine as unknown as PodMachine, policy);
  }
  assert.deepEqual(readdirSync(join(dir, "sbs")).sort(), ["bad", "good"]);

  let asked = 0;
  const nonsense = (): Promise<never> => {
    asked++;
    return Promise.reject(new SyntaxError("Cannot convert x to a BigInt"));
  };
  assert.equal(await machines.asked(context, "bad", nonsense), undefined);
  assert.equal(await machines.asked(context, "bad", nonsense), undefined);
  assert.equal(asked, 1);
  assert.deepEqual(warnings, ["the pod's guest does not tell what it has used"]);
  const answer = ({ runtime }: { runtime: GuestRuntime }) => Promise.resolve(runtime && 1);
  assert.equal(await machines.asked(context, "good", answer), 1);
  machines.giveUp("good");
  assert.equal(await machines.asked(context, "good", answer), undefined);
  assert.equal(await machines.asked(context, "unknown", answer), undefined);
  await machines.close();
  assert.deepEqual(readdirSync(join(dir, "sbs", "good")), []);
});
