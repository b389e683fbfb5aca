/**
 * In place of the codecs and types that no store of gz3d_zarr uses, or that codecs.js replaces:
 * zarrita says of a codec that is undefined that it does not know it.
 */

export default undefined;
export const BitroundCodec = undefined;
export const CastValueCodec = undefined;
export const Crc32cCodec = undefined;
export const GzipCodec = undefined;
export const JsonCodec = undefined;
export const ScaleOffsetCodec = undefined;
export const ShuffleCodec = undefined;
export const VLenUTF8 = undefined;
export const ZlibCodec = undefined;
export class BoolArray {}
export class ByteStringArray {}
export class UnicodeStringArray {}
