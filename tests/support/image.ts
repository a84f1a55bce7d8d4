/** The image of the tests: the machine's own busybox. */
export { busyboxArchive } from "../../scripts/busybox-image.ts";
