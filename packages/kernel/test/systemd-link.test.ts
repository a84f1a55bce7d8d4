/** systemd asked by a daemon: connections end, systemd re-executes itself, and what was asked is done once. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { DBusError, DBusLost, FakeSystemd, SystemdLink, SystemdManager, systemdPlace } from "../src/index.ts";
import { v2Host } from "../src/testing/hosts.ts";

let directory: string;
let sockets = 0;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), "berth-systemd-link-"));
});
after(async () => {
  await rm(directory, { recursive: true });
});

const place = systemdPlace("pods.slice:cri-containerd:c1", "c1");
const request = { place, pids: [7], host: v2Host(), resources: { pids: { limit: 9 } } };
const [LOST, EXISTS] = [{ lost: true }, { error: "org.freedesktop.systemd1.UnitExists" }] as const;

async function linked(t: TestContext, patienceMs = 10_000): Promise<{ fake: FakeSystemd; link: SystemdLink }> {
  const path = join(directory, `bus${++sockets}`);
  const fake = await FakeSystemd.listen(path);
  const link = new SystemdLink({ connect: () => SystemdManager.connect(`unix:path=${path}`), patienceMs });
  t.after(async () => {
    link.close();
    await fake[Symbol.asyncDispose]();
  });
  return { fake, link };
}

const units = (fake: FakeSystemd, member: string) => fake.bodies(member).map(([unit]) => unit);

test("one connection serves, until it ends; then there is another", async (t) => {
  const { fake, link } = await linked(t);
  await Promise.all([link.start(request), link.update(place, { pids: { limit: 3 } }, v2Host())]);
  await link.stop(place);
  assert.deepEqual(units(fake, "StartTransientUnit"), [place.unit]);
  assert.equal(fake.bodies("Hello").length, 1);
  fake.answers = { SetUnitProperties: [LOST] };
  await link.update(place, { pids: { limit: 4 } }, v2Host());
  assert.equal(fake.bodies("Hello").length, 2);
  assert.equal(fake.bodies("SetUnitProperties").length, 3);
});

test("a unit that was started before the connection ended is not started twice", async (t) => {
  const { fake, link } = await linked(t);
  fake.answers = { StartTransientUnit: [LOST, EXISTS, EXISTS] };
  await link.start(request);
  assert.equal(fake.bodies("GetUnit").length, 1);
  // Still on its way: it is looked at again.
  fake.answers = { StartTransientUnit: [LOST, EXISTS, EXISTS, EXISTS, EXISTS], Get: [{}, { state: "inactive" }] };
  await link.start(request);
  assert.equal(fake.bodies("GetUnit").length, 3);
});

test("a name that is taken at once is another's", async (t) => {
  const { fake, link } = await linked(t);
  fake.answers = { StartTransientUnit: [EXISTS, EXISTS] };
  await assert.rejects(link.start(request), (error: Error) => {
    assert.ok(error instanceof DBusError && !(error instanceof DBusLost));
    assert.match(error.message, /^systemd unit cri-containerd-c1\.scope: .*StartTransientUnit: .*UnitExists/);
    return true;
  });
});

test("systemd re-executes itself while a job is under way, and is not on its bus for a moment", async (t) => {
  const { fake, link } = await linked(t);
  fake.answers = { StartTransientUnit: [{ endless: true }, EXISTS, EXISTS] };
  const started = link.start(request);
  while (fake.bodies("StartTransientUnit").length === 0) await new Promise(setImmediate);
  fake.restart();
  await started;
  const away = ["NoReply", "ServiceUnknown", "NameHasNoOwner", "Spawn.ChildExited"].map((name) => ({
    error: `org.freedesktop.DBus.Error.${name}`,
  }));
  fake.answers = { StopUnit: [...away] };
  await link.stop(place);
  assert.equal(fake.bodies("StopUnit").length, away.length + 1);
});

test("patience ends with an error that names the unit; the caller's signal ends it at once", async (t) => {
  const { fake, link } = await linked(t, 200);
  const forever = Array.from({ length: 1000 }, () => LOST);
  fake.answers = { StartTransientUnit: forever };
  await assert.rejects(link.start(request), /^DBusLost: systemd unit cri-containerd-c1\.scope: .*the connection ended/);
  fake.answers = { StopUnit: [{ endless: true }] };
  await assert.rejects(link.stop(place, AbortSignal.timeout(50)), { name: "TimeoutError" });
  link.close();
  await assert.rejects(link.stop(place), /cri-containerd-c1\.scope: the connection was closed/);
});

test("where no systemd can be, nobody waits for it", async () => {
  const link = new SystemdLink({
    connect: () => SystemdManager.connect(`unix:path=${directory}/nobody`),
    patienceMs: 600_000,
  });
  const began = Date.now();
  await assert.rejects(link.start(request), /systemd unit cri-containerd-c1\.scope: cannot reach systemd at .*nobody/);
  assert.ok(Date.now() - began < 60_000);
});
