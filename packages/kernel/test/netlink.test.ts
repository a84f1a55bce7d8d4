/** Networks by messages: in a namespace of the test's own, set by bosun and looked at by ip(8). */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { CLONE, O, type Order, OrderError } from "../src/index.ts";
import {
  addAddress,
  addIngress,
  addNeighbour,
  addRedirect,
  addRoute,
  addTokenBucket,
  addressesRequest,
  linksRequest,
  neighboursRequest,
  parseAddresses,
  parseLinks,
  parsePermanentNeighbours,
  parseRoutes,
  routesRequest,
  setLink,
} from "../src/netlink/index.ts";
import { addressBytes, addressText } from "../src/netlink/address.ts";
import { Bench } from "./support/hand.ts";

test("addresses between words and bytes", () => {
  for (const address of ["10.0.0.1", "::", "::1", "fd00::1", "2001:db8:0:1::a", "1:2:3:4:5:6:7:8", "2001:db8::1:0:0:1"])
    assert.equal(addressText(addressBytes(address)), address);
  assert.equal(addressText(addressBytes("::ffff:1.2.3.4")), "::ffff:102:304");
  assert.throws(() => addressBytes("10.0.0"), /"10\.0\.0" is not an address/);
});

const canTry = process.getuid?.() === 0 && spawnSync("ip", ["-V"]).status === 0;

describe("in a network namespace", { skip: canTry ? false : "needs root and ip(8)" }, () => {
  const name = `berth-nl-${process.pid}`;
  const ip = (...args: string[]): string => execFileSync("ip", ["-n", name, ...args], { encoding: "utf8" });
  const enter: Order[] = [
    { order: "open", args: { slot: 0, path: `/run/netns/${name}`, flags: BigInt(O.RDONLY) } },
    { order: "setns", args: { slot: 0, type: CLONE.NEWNET } },
  ];
  let bench: Bench;
  const tell = async (messages: readonly Buffer[], tolerate: readonly number[] = []): Promise<Uint8Array> => {
    const outputs = await bench.hand.run({ orders: [...enter, { order: "netlink", args: { messages, tolerate } }] });
    return outputs.get(enter.length) ?? new Uint8Array();
  };
  before(async () => {
    execFileSync("ip", ["netns", "add", name]);
    ip("link", "add", "one", "type", "veth", "peer", "name", "two");
    bench = await Bench.start();
  });
  after(async () => {
    await bench[Symbol.asyncDispose]();
    execFileSync("ip", ["netns", "delete", name]);
  });

  test("an interface is renamed, sized, brought up, and given addresses, routes and neighbours", async () => {
    const found = parseLinks(await tell([linksRequest()]));
    const [one] = found.filter((link) => link.name === "one");
    assert.ok(one);
    assert.equal(one.kind, "veth");
    assert.equal(one.isUp, false);
    const { index } = one;
    await tell([
      setLink(index, { name: "eth7", mtu: 1400 }),
      setLink(index, { up: true }),
      addAddress({ index, address: "10.9.0.2", prefix: 24, scope: 0 }),
      addAddress({ index, address: "fd09::2", prefix: 64, scope: 0 }),
      addRoute({ index, destination: undefined, gateway: "10.9.0.1", scope: 0, protocol: 3, family: 2 }),
      addRoute({
        index,
        destination: { address: "10.8.0.0", prefix: 16 },
        gateway: undefined,
        scope: 253,
        protocol: 3,
        family: 2,
        mtu: 1300,
      }),
      addNeighbour({ index, address: "10.9.0.1", mac: "02:00:00:00:00:09" }),
    ]);
    assert.match(ip("-br", "address", "show", "eth7"), /10\.9\.0\.2\/24.*fd09::2\/64/);
    assert.match(ip("link", "show", "eth7"), /mtu 1400/);
    assert.match(ip("route"), /default via 10\.9\.0\.1 dev eth7[^]*10\.8\.0\.0\/16 dev eth7 .*mtu 1300/);
    assert.match(ip("neigh"), /10\.9\.0\.1 dev eth7 lladdr 02:00:00:00:00:09 PERMANENT/);
    const own = <T extends { readonly index: number }>(all: readonly T[]): T[] =>
      all.filter((each) => each.index === index);
    assert.deepEqual(
      own(parseAddresses(await tell([addressesRequest()])))
        .filter(({ scope }) => scope === 0)
        .map(({ address, prefix }) => `${address}/${prefix}`),
      ["10.9.0.2/24", "fd09::2/64"],
    );
    const routes = own(parseRoutes(await tell([routesRequest()])));
    assert.ok(routes.some(({ destination, gateway }) => destination === undefined && gateway === "10.9.0.1"));
    assert.ok(
      routes.some(
        ({ destination, mtu }) => destination?.address === "10.8.0.0" && destination.prefix === 16 && mtu === 1300,
      ),
    );
    assert.deepEqual(own(parsePermanentNeighbours(await tell([neighboursRequest()]))), [
      { index, address: "10.9.0.1", mac: "02:00:00:00:00:09" },
    ]);
  });

  test("all that arrives at one interface leaves at another", async () => {
    const links = parseLinks(await tell([linksRequest()]));
    const indexOf = (wanted: string): number => links.find((link) => link.name === wanted)?.index ?? 0;
    await tell([addIngress(indexOf("two")), addRedirect(indexOf("two"), indexOf("eth7"))]);
    const said = execFileSync("tc", ["-n", name, "filter", "show", "dev", "two", "parent", "ffff:"], {
      encoding: "utf8",
    });
    assert.match(
      said,
      /protocol all pref 1 u32[^]*match 00000000\/00000000 at 0[^]*mirred \(Egress Redirect to device eth7\) stolen/,
    );
    await tell([addIngress(indexOf("two"))], [17]);
    await assert.rejects(
      tell([addIngress(indexOf("two"))]),
      (error) => error instanceof OrderError && error.code === "EEXIST",
    );
  });

  test("what leaves at an interface has a limit", async () => {
    const links = parseLinks(await tell([linksRequest()]));
    const index = links.find((link) => link.name === "two")?.index ?? 0;
    const shown = (): string =>
      execFileSync("tc", ["-n", name, "qdisc", "show", "dev", "two", "root"], { encoding: "utf8" });
    await tell([addTokenBucket(index, 125_000)]);
    assert.match(shown(), /qdisc tbf .*rate 1Mbit burst 64Kb lat 50ms/);
    await assert.rejects(
      tell([addTokenBucket(index, 125_000)]),
      (error) => error instanceof OrderError && error.code === "EEXIST",
    );
    execFileSync("tc", ["-n", name, "qdisc", "del", "dev", "two", "root"]);
    await tell([addTokenBucket(index, 12_500_000_000)]);
    assert.match(shown(), /qdisc tbf .*rate 100Gbit /);
  });

  test("what is refused is told with the message's number", async () => {
    await assert.rejects(tell([linksRequest(), setLink(99_999, { up: true })]), (error) => {
      assert.ok(error instanceof OrderError);
      assert.equal(error.code, "ENODEV");
      assert.match(error.message, /netlink message 1/);
      return true;
    });
    await assert.rejects(tell([Buffer.alloc(8)]), /netlink message 0 is shorter than its header/);
    await assert.rejects(tell([Buffer.alloc(20)]), /netlink message 0 says that it has 0 bytes, and has 20/);
  });
});
