/** The agent's own policy, which it holds its requests to after the node has. */
import { agent } from "@berth/spec/kata";
import { CODE } from "@berth/ttrpc";
import { type AgentClient, AgentError } from "./client.ts";

/** False: this agent was built without policies. Rejects with AgentError where its present one does not allow it. */
export async function setAgentPolicy(client: AgentClient, policy: string, signal?: AbortSignal): Promise<boolean> {
  try {
    await client.call(agent.AgentService.method.setPolicy, { policy }, { signal });
    return true;
  } catch (error) {
    if (error instanceof AgentError && error.status === CODE.unimplemented) return false;
    throw error;
  }
}
