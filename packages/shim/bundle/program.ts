/** In a bundle's directory: the sources as one function, and what V8 made of it while it was built. */
export const PROGRAM = "shim.js";
export const COMPILED = "shim.code";
