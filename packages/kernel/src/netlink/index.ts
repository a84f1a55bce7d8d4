/** Networks by rtnetlink(7): messages for order `netlink`, and its answers. */
export {
  addAddress,
  addMacvtap,
  addNeighbour,
  addRoute,
  addressesRequest,
  linksRequest,
  neighboursRequest,
  parseAddresses,
  parseLinks,
  parsePermanentNeighbours,
  parseRoutes,
  removeAddress,
  routesRequest,
  setLink,
  type Address,
  type Link,
  type LinkChange,
  type Neighbour,
  type Route,
} from "./route.ts";
export { addIngress, addRedirect, addTokenBucket } from "./traffic.ts";
