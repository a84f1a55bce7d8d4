/** A disk as QEMU's blockdev-add and device_add take it; the command line has the same as JSON. */
import { VmError } from "../../errors.ts";
import type { Disk, DiskOptions, Share } from "../machine.ts";
import type { MachineType } from "./command.ts";

export const deviceId = (id: string): string => `${id}-dev`;

export function blockNode(disk: Disk, { aio, cache }: DiskOptions): Record<string, unknown> {
  const { id, path, readonly, format = "raw" } = disk;
  const isDevice = path.startsWith("/dev/");
  // io=native needs O_DIRECT.
  const direct = cache?.direct ?? aio === "native";
  return {
    "node-name": id,
    driver: format,
    "read-only": readonly,
    // What a guest gives up is given up by the file.
    ...(!readonly && !isDevice && { discard: "unmap" }),
    ...(cache !== undefined || direct ? { cache: { direct, "no-flush": cache?.noFlush ?? false } } : {}),
    file: {
      driver: isDevice ? "host_device" : "file",
      filename: path,
      aio: aio === "io_uring" ? "io_uring" : aio,
      "read-only": readonly,
      // An image that is only read is many machines'.
      locking: readonly ? "off" : "auto",
      ...(!readonly && !isDevice && { discard: "unmap" }),
      ...(cache !== undefined || direct ? { cache: { direct, "no-flush": cache?.noFlush ?? false } } : {}),
    },
  };
}

export function diskDevice(
  disk: Disk,
  options: DiskOptions,
  machineType: MachineType,
  bus?: string,
): Record<string, unknown> {
  const { logicalSector, physicalSector, queues, queueSize, driver } = options;
  if (Buffer.byteLength(disk.id) > SERIAL_ROOM)
    throw new VmError("Hypervisor", `disk ${disk.id}: its name is longer than ${SERIAL_ROOM} letters`);
  const sectors = {
    ...(logicalSector > 0 && { logical_block_size: logicalSector }),
    ...(physicalSector > 0 && { physical_block_size: physicalSector }),
  };
  // A disk of the host that is full is an error of the guest's program, not a machine that stands still.
  const errors = disk.readonly ? {} : { werror: "report", rerror: "report" };
  if (driver === "virtio-scsi")
    return {
      driver: "scsi-hd",
      bus: "scsi0.0",
      drive: disk.id,
      id: deviceId(disk.id),
      serial: disk.id,
      ...sectors,
      ...errors,
    };
  return {
    driver: machineType === "microvm" ? "virtio-blk-device" : "virtio-blk-pci",
    ...(bus !== undefined && { bus }),
    drive: disk.id,
    id: deviceId(disk.id),
    serial: disk.id,
    ...sectors,
    ...errors,
    ...(queues > 0 && { "num-queues": queues }),
    ...(queueSize > 0 && { "queue-size": queueSize }),
    ...(options.iothread && { iothread: "iothread0" }),
  };
}

/** As chardev-add and device_add take it. */
export function shareDevices({
  tag,
  socket,
  queueSize,
  cacheSize,
}: Share): Record<"chardev" | "device", Readonly<Record<string, unknown>>> {
  const id = `share-${tag}`;
  const addr = { type: "unix", data: { path: socket } };
  const cache = cacheSize > 0 ? { "cache-size": cacheSize << 20 } : {};
  return {
    chardev: { id, backend: { type: "socket", data: { addr, server: false } } },
    device: { driver: "vhost-user-fs-pci", id: deviceId(id), chardev: id, tag, "queue-size": queueSize, ...cache },
  };
}

/** VIRTIO_BLK_ID_BYTES. */
const SERIAL_ROOM = 20;
