/** Which user and groups a container's process gets: CRI's fields first, else the image's USER, looked up in the image's own passwd and group. */
import { cri } from "@berth/spec";
import { CriError, invalid } from "../errors.ts";
import { status } from "@grpc/grpc-js";
import type { ContainerUser } from "../store/records.ts";

export interface UserDatabase {
  readonly passwd?: Uint8Array | undefined;
  readonly group?: Uint8Array | undefined;
}

interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}
interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

export interface ResolvedUser extends ContainerUser {
  /** From passwd; undefined where the user is not listed. */
  readonly home: string | undefined;
}

/** passwd(5); malformed lines are passed over, as libc does. */
function passwdEntries(bytes: Uint8Array | undefined): PasswdEntry[] {
  return lines(bytes).flatMap(([name, , uid, gid, , home]) => {
    const [u, g] = [identifier(uid), identifier(gid)];
    return name === undefined || u === undefined || g === undefined ? [] : [{ name, uid: u, gid: g, home: home ?? "" }];
  });
}

/** group(5). */
function groupEntries(bytes: Uint8Array | undefined): GroupEntry[] {
  return lines(bytes).flatMap(([name, , gid, members]) => {
    const g = identifier(gid);
    return name === undefined || g === undefined
      ? []
      : [{ name, gid: g, members: (members ?? "").split(",").filter((member) => member !== "") }];
  });
}

const lines = (bytes: Uint8Array | undefined): string[][] =>
  bytes === undefined
    ? []
    : Buffer.from(bytes)
        .toString("utf8")
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("#"))
        .map((line) => line.split(":"));

/** A decimal user or group id of at most 32 bits; strict, so that "0x0", "-1" or "1 " are names and not numbers (crun CVE-2026-30892). */
function identifier(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  const value = Number(text);
  return value < 0xffffffff ? value : undefined;
}

export function resolveUser(
  context: cri.LinuxContainerSecurityContext | undefined,
  imageUser: string,
  database: UserDatabase,
): ResolvedUser {
  const passwd = passwdEntries(database.passwd);
  const groups = groupEntries(database.group);
  const [userPart, groupPart] = requested(context, imageUser);
  const { uid, gid: ownGid, name, home } = findUser(userPart, passwd);
  const gid = groupPart === undefined ? ownGid : findGroup(groupPart, groups);
  return { uid, gid, home, additionalGids: additionalGroups(context, { name, gid }, groups) };
}

/** The user and, where one is asked for, the group: numbers or names. */
function requested(
  context: cri.LinuxContainerSecurityContext | undefined,
  imageUser: string,
): [string, string | undefined] {
  const group = context?.runAsGroup === undefined ? undefined : checked(context.runAsGroup.value, "run_as_group");
  if (context?.runAsUser !== undefined) return [checked(context.runAsUser.value, "run_as_user"), group];
  if (context?.runAsUsername) return [context.runAsUsername, group];
  if (group !== undefined)
    throw invalid("linux.security_context.run_as_group: set without run_as_user or run_as_username");
  const [user = "", imageGroup] = imageUser.split(":", 2);
  return [user === "" ? "0" : user, imageGroup === undefined || imageGroup === "" ? undefined : imageGroup];
}

function checked(value: bigint, field: string): string {
  if (value < 0n || value >= 0xffffffffn)
    throw invalid(`linux.security_context.${field}: ${value} is not an id (0 to 4294967294)`);
  return value.toString();
}

function findUser(
  user: string,
  passwd: readonly PasswdEntry[],
): { uid: number; gid: number; name: string | undefined; home: string | undefined } {
  const uid = identifier(user);
  const entry =
    passwd.find((candidate) => (uid === undefined ? candidate.name === user : candidate.uid === uid)) ??
    passwd.find((candidate) => candidate.name === user);
  if (entry) return entry;
  if (uid === undefined)
    throw new CriError(
      status.INVALID_ARGUMENT,
      `unable to find user "${user}": no matching entry in the image's /etc/passwd`,
    );
  return { uid, gid: 0, name: undefined, home: undefined };
}

function findGroup(group: string, groups: readonly GroupEntry[]): number {
  const named = groups.find((candidate) => candidate.name === group)?.gid;
  const gid = named ?? identifier(group);
  if (gid === undefined)
    throw new CriError(
      status.INVALID_ARGUMENT,
      `unable to find group "${group}": no matching entry in the image's /etc/group`,
    );
  return gid;
}

/** Merge: those of the request and those of the image's group file; Strict: the request's alone. The primary group is always among them, as containerd has it. */
function additionalGroups(
  context: cri.LinuxContainerSecurityContext | undefined,
  user: { readonly name: string | undefined; readonly gid: number },
  groups: readonly GroupEntry[],
): number[] {
  const own =
    context?.supplementalGroupsPolicy === cri.SupplementalGroupsPolicy.Strict || user.name === undefined
      ? []
      : groups.filter((group) => group.members.includes(user.name as string)).map((group) => group.gid);
  const asked = (context?.supplementalGroups ?? []).map((gid) => Number(checked(gid, "supplemental_groups")));
  return [...new Set([user.gid, ...own, ...asked])];
}
