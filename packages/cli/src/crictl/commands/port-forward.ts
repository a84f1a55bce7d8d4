import type { CommandSpec } from "../command.ts";
import { CrictlError, EMPTY_ID, wrap } from "../errors.ts";
import { parsePorts, PortForwarder } from "../port-forwarder.ts";
import { tlsOf, transportOf, TRANSPORT_FLAGS } from "../transport.ts";

export const portForward: CommandSpec = {
  name: "port-forward",
  usage: "Forward local port to a pod",
  argsUsage: "POD-ID [LOCAL_PORT:]REMOTE_PORT",
  flags: TRANSPORT_FLAGS,
  async run(context) {
    const { flags } = context;
    const [podSandboxId = "", ...ports] = flags.args;
    if (ports.length === 0) return context.help();
    const tls = tlsOf(flags);
    const transport = transportOf(flags);
    const runtime = await context.runtime();
    await wrap("port forward", async () => {
      if (podSandboxId === "") throw new CrictlError(EMPTY_ID);
      const { url } = await runtime.portForward({ podSandboxId });
      await using forwarder = await PortForwarder.open(context, { url, transport, tls, ports: parsePorts(ports) });
      await forwarder.listen();
      await forwarder.ended();
    });
  },
};
