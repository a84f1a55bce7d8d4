/** Traffic control (tc(8)): all that arrives at one interface leaves at another, and no faster than it may. */
import { attribute, nested, netlinkMessage, textAttribute, u32 } from "./message.ts";
import { NLM } from "./route.ts";

const [RTM_NEWQDISC, RTM_NEWTFILTER] = [36, 44] as const;
const TCA = { KIND: 1, OPTIONS: 2 } as const;
const TC_H_INGRESS = 0xfffffff1;
const TC_H_ROOT = 0xffffffff;
const INGRESS_HANDLE = 0xffff0000;
const ETH_P_ALL = 0x0003;
const PRIORITY = 1;
const TCMSG = 20;

function tcMessage(index: number, handle: number, parent: number, info: number): Buffer {
  const fixed = Buffer.alloc(TCMSG);
  fixed.writeInt32LE(index, 4);
  fixed.writeUInt32LE(handle >>> 0, 8);
  fixed.writeUInt32LE(parent >>> 0, 12);
  fixed.writeUInt32LE(info >>> 0, 16);
  return fixed;
}

/** `tc qdisc add dev INDEX ingress`. EEXIST: there is one. */
export const addIngress = (index: number): Buffer =>
  netlinkMessage(RTM_NEWQDISC, NLM.CREATE | NLM.EXCL, tcMessage(index, INGRESS_HANDLE, TC_H_INGRESS, 0), [
    textAttribute(TCA.KIND, "ingress"),
  ]);

/** `tc filter add dev INDEX parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev TARGET` (tc-u32(8), tc-mirred(8)). */
export function addRedirect(index: number, target: number): Buffer {
  const info = (PRIORITY << 16) | (((ETH_P_ALL & 0xff) << 8) | (ETH_P_ALL >> 8));
  return netlinkMessage(RTM_NEWTFILTER, NLM.CREATE | NLM.EXCL, tcMessage(index, 0, INGRESS_HANDLE, info), [
    textAttribute(TCA.KIND, "u32"),
    nested(TCA.OPTIONS, [attribute(U32_SEL, matchAll()), nested(U32_ACT, [nested(FIRST_ACTION, redirectTo(target))])]),
  ]);
}

/** Milliseconds that what is too much waits before it is dropped. */
const TBF_LATENCY = 50;
/** Bytes: the largest packet that a card with offloads hands over. */
const LARGEST_PACKET = 1 << 16;
const [TBF_PARMS, TBF_RATE64, TBF_BURST] = [1, 4, 6] as const;
const TC_LINKLAYER_ETHERNET = 1;

/** `tc qdisc add dev INDEX root tbf rate …` (tc-tbf(8)): no more than so many bytes a second leave there. EEXIST: there is one. */
export function addTokenBucket(index: number, bytesPerSecond: number): Buffer {
  const burst = Math.max(LARGEST_PACKET, Math.ceil(bytesPerSecond / 100));
  // struct tc_tbf_qopt: rate and peak rate (tc_ratespec), limit, buffer, mtu.
  const parameters = Buffer.alloc(36);
  parameters.writeUInt8(TC_LINKLAYER_ETHERNET, 1);
  parameters.writeUInt32LE(Math.min(bytesPerSecond, 0xffffffff), 8);
  parameters.writeUInt32LE(Math.min(burst + Math.ceil((bytesPerSecond * TBF_LATENCY) / 1000), 0xffffffff), 24);
  const rate64 = Buffer.alloc(8);
  rate64.writeBigUInt64LE(BigInt(bytesPerSecond));
  return netlinkMessage(RTM_NEWQDISC, NLM.CREATE | NLM.EXCL, tcMessage(index, 0, TC_H_ROOT, 0), [
    textAttribute(TCA.KIND, "tbf"),
    nested(TCA.OPTIONS, [
      attribute(TBF_PARMS, parameters),
      attribute(TBF_BURST, u32(burst)),
      ...(bytesPerSecond > 0xffffffff ? [attribute(TBF_RATE64, rate64)] : []),
    ]),
  ]);
}

const [U32_SEL, U32_ACT, FIRST_ACTION] = [5, 7, 1] as const;
const TC_U32_TERMINAL = 1;

/** struct tc_u32_sel with one key, whose mask is nothing. */
function matchAll(): Buffer {
  const selector = Buffer.alloc(16 + 16);
  selector.writeUInt8(TC_U32_TERMINAL, 0);
  selector.writeUInt8(1, 2);
  return selector;
}

const [ACT_KIND, ACT_OPTIONS, MIRRED_PARMS] = [1, 2, 2] as const;
const TC_ACT_STOLEN = 4;
const TCA_EGRESS_REDIR = 1;

/** struct tc_mirred: five words of tc_gen, then what to do, and where to. */
function redirectTo(target: number): Buffer[] {
  const parameters = Buffer.concat([0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target].map(u32));
  return [textAttribute(ACT_KIND, "mirred"), nested(ACT_OPTIONS, [attribute(MIRRED_PARMS, parameters)])];
}
