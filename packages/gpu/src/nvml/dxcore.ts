/** Windows' graphics kernel as WSL shows it (libdxcore.so, d3dkmthk.h): which drivers its adapters use. */
import koffi from "koffi";

koffi.struct("berth_dx_adapters2", { count: "uint32_t", adapters: "void *" });
koffi.struct("berth_dx_adapters3", { filter: "uint64_t", count: "uint32_t", adapters: "void *" });
koffi.struct("berth_dx_query", { adapter: "uint32_t", type: "uint32_t", data: "void *", size: "uint32_t" });

/** KMTQAITYPE_DRIVERVERSION, KMTQAITYPE_QUERYREGISTRY; D3DDDI_QUERYREGISTRY_DRIVERSTOREPATH. */
const DRIVER_VERSION = 13;
const REGISTRY = 48;
const STORE_PATH = 2;
/** Adapters that only compute are there too. */
const COMPUTE_ONLY = 1n;
/** WDDM 2.7: before it an adapter is not usable from here. */
const OLDEST = 2700;
/** sizeof(D3DKMT_ADAPTERINFO). */
const ADAPTER_SIZE = 20;
/** Of D3DDDI_QUERYREGISTRY_INFO: where the size and the value are; characters of it have four bytes on Linux. */
const SIZE_AT = 1056;
const VALUE_AT = 1064;
const INFO_SIZE = 1072;
const CHARACTER = 4;
const MAX_PATH = 260;
const MAX_ADAPTERS = 64;

type Call = (parameters: object) => number;

/** Directories of the drivers, as Linux has them, each once. Throws Error where the library has none of the functions. */
export function driverStores(library: string): string[] {
  const loaded = koffi.load(library);
  try {
    const call = (name: string, type: string): Call | undefined => found(loaded, name, type);
    const query = call("D3DKMTQueryAdapterInfo", "berth_dx_query");
    if (query === undefined) throw new Error(`${library}: no D3DKMTQueryAdapterInfo in it`);
    const stores = adaptersOf(library, call).flatMap((adapter) => storeOf(query, adapter));
    return [...new Set(stores)];
  } finally {
    loaded.unload();
  }
}

function found(library: ReturnType<typeof koffi.load>, name: string, type: string): Call | undefined {
  try {
    return library.func(`int ${name}(_Inout_ ${type} *parameters)`) as Call;
  } catch (error) {
    if (/cannot find function/i.test((error as Error).message)) return undefined;
    throw error;
  }
}

/** Handles. The newer function is tried first; older Windows has the other. */
function adaptersOf(library: string, call: (name: string, type: string) => Call | undefined): number[] {
  const calls = [
    { call: call("D3DKMTEnumAdapters3", "berth_dx_adapters3"), more: { filter: COMPUTE_ONLY } },
    { call: call("D3DKMTEnumAdapters2", "berth_dx_adapters2"), more: {} },
  ].flatMap(({ call: one, more }) => (one === undefined ? [] : [{ call: one, more }]));
  if (calls.length === 0) throw new Error(`${library}: neither D3DKMTEnumAdapters3 nor D3DKMTEnumAdapters2 in it`);
  for (const { call: enumerate, more } of calls) {
    const asked = { ...more, count: 0, adapters: null };
    if (enumerate(asked) !== 0) continue;
    const list = Buffer.alloc(Math.min(asked.count, MAX_ADAPTERS) * ADAPTER_SIZE);
    const filled = { ...more, count: list.length / ADAPTER_SIZE, adapters: list };
    if (enumerate(filled) !== 0) continue;
    const count = Math.min(filled.count, list.length / ADAPTER_SIZE);
    return Array.from({ length: count }, (_, index) => list.readUInt32LE(index * ADAPTER_SIZE));
  }
  return [];
}

/** None for an adapter that is too old, or that says nothing of its driver. */
function storeOf(query: Call, adapter: number): string[] {
  const ask = (type: number, data: Buffer): boolean => query({ adapter, type, data, size: data.length }) === 0;
  const version = Buffer.alloc(4);
  if (!ask(DRIVER_VERSION, version) || version.readUInt32LE(0) < OLDEST) return [];
  const question = (room: number): Buffer => {
    const info = Buffer.alloc(INFO_SIZE + room);
    info.writeUInt32LE(STORE_PATH, 0);
    info.writeUInt32LE(room, SIZE_AT);
    return info;
  };
  const first = question(0);
  if (!ask(REGISTRY, first)) return [];
  const size = first.readUInt32LE(SIZE_AT);
  if (size === 0 || size > MAX_PATH * CHARACTER) return [];
  const answer = question(size);
  if (!ask(REGISTRY, answer)) return [];
  const text = wideText(answer.subarray(VALUE_AT, VALUE_AT + size));
  return text === "" ? [] : [text];
}

function wideText(bytes: Buffer): string {
  const characters = Array.from({ length: Math.floor(bytes.length / CHARACTER) }, (_, index) =>
    bytes.readUInt32LE(index * CHARACTER),
  );
  const end = characters.indexOf(0);
  return String.fromCodePoint(...(end < 0 ? characters : characters.slice(0, end)));
}
