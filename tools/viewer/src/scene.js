// Reads the scene that posecore.export.html wrote: JSON, and one buffer of numbers that its arrays lie in.

const KINDS = {
  uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, uint32: Uint32Array, float32: Float32Array,
};

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** The scene; what was a description of an array, {type, shape, offset, scale}, is now {data, shape}. */
export function readScene(text) {
  const { buffer, ...content } = JSON.parse(text);
  if (content.format !== "humandiff-scene/1") throw new Error(`scene of unknown format ${content.format}`);
  const bytes = bytesOf(buffer).buffer;
  const visit = (value) => {
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map(visit);
    if (!("offset" in value)) return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, visit(v)]));
    const count = value.shape.reduce((product, size) => product * size, 1);
    const stored = new KINDS[value.type](bytes, value.offset, count);
    const data = value.scale === null ? stored : Float32Array.from(stored, (number) => number * value.scale);
    return { data, shape: value.shape };
  };
  return visit(content);
}
