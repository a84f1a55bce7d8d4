/** Numbers that no other test of this machine uses at the same time: of bridges and their networks, of ports. */
import { once } from "node:events";
import { createServer, type ListenOptions } from "node:net";

/** Listens, unseen, until this process ends; false where somebody else does. */
async function listens(where: ListenOptions): Promise<boolean> {
  const server = createServer().unref();
  server.listen(where);
  try {
    await once(server, "listening");
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EADDRINUSE") return false;
    throw error;
  }
}

/** A number below `count` that is this process's until it ends: it has the abstract socket of that name. */
export async function claim(kind: string, count: number): Promise<number> {
  for (let tries = 0; tries < count; tries++) {
    const number = (process.pid * 8 + tries) % count;
    if (await listens({ path: `\0berth-test-${kind}-${number}` })) return number;
  }
  throw new Error(`tests that run at this moment have all ${count} numbers of a ${kind}`);
}

/** A port below those that the kernel gives out by itself (net.ipv4.ip_local_port_range), which begin at 32768. */
export const claimPort = async (): Promise<number> => 20_000 + (await claim("port", 10_000));
