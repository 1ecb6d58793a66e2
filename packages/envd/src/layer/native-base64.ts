import type { Plugin } from 'rolldown'

const MODULE = /\/@bufbuild\/protobuf\/dist\/esm\/wire\/base64-encoding\.js$/
const DECLARATION = 'export function base64Encode('
const REPLACEMENT = `
const ENCODINGS = { std: 'base64', std_raw: 'base64', url: 'base64url' }
export function base64Encode(bytes, encoding = 'std') {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString(ENCODINGS[encoding])
  return encoding === 'std_raw' ? text.replace(/=+$/, '') : text
}
`

/**
 * Bytes in JSON messages are encoded by Node. The library does it by one concatenation per character, and clients ask
 * for the output of processes in JSON: that loop is then most of what the agent does.
 */
export const nativeBase64: Plugin = {
  name: 'native-base64',
  transform(code, id) {
    if (!MODULE.test(id)) return null
    if (!code.includes(DECLARATION)) throw new Error(`${id}: no ${DECLARATION.slice(7, -1)} to replace`)
    return { code: code.replace(DECLARATION, 'function replacedEncode(') + REPLACEMENT, map: null }
  },
}
