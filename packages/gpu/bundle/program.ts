/** Of the bundle, in its directory. */
export const PROGRAM = "device-plugin.cjs";
