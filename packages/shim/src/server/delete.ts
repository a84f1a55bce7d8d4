/** `containerd-shim-… delete`: what a shim that has died left of a container. Idempotent. */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { probeHost, startHand } from "@berth/kernel";
import { task } from "@berth/spec/shim";
import { groupOf, type Invocation } from "./arguments.ts";
import { bosun, handDir, socketPath, stateDir } from "./place.ts";
import { isServed, type Program } from "./program.ts";
import { now, timestamp } from "./publisher.ts";

/** Of a process whose end nobody saw, as containerd reports it. */
const KILLED = 137;

/** Writes an encoded DeleteResponse to standard output. */
export async function remove(program: Program, invocation: Invocation): Promise<void> {
  const { address, namespace, id } = invocation;
  const directory = `${handDir(stateDir(address, namespace, id))}-delete`;
  const hand = await startHand({ bosun, state: directory });
  try {
    const { deleteLeft } = await program.parts();
    await deleteLeft({ hand, host: await probeHost() }, invocation);
    await removeDead(invocation);
    const response = create(task.DeleteResponseSchema, { exitStatus: KILLED, exitedAt: timestamp(now()) });
    process.stdout.write(toBinary(task.DeleteResponseSchema, response));
  } finally {
    await hand.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

/** What belonged to the shim itself, if it is the dead one: containerd also asks this for a container whose creation failed. */
async function removeDead(invocation: Invocation): Promise<void> {
  const { address, namespace, bundle } = invocation;
  if (!existsSync(join(bundle, "config.json"))) return;
  const socket = socketPath(address, namespace, groupOf(invocation));
  if (await isServed(socket)) return;
  rmSync(handDir(socket), { recursive: true, force: true });
  rmSync(socket, { force: true });
}
