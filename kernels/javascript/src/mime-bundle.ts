/** Values as what Jupyter shows: a text, and the richer forms that a value offers. */
import { inspect } from 'node:util'

export type MimeBundle = Record<string, unknown>

const TEXT_OPTIONS = { depth: 6, maxArrayLength: null, maxStringLength: null, breakLength: 80 } as const
const MAX_JSON_CHARACTERS = 16 * 1024 * 1024
const MIME_TYPE = /^[a-z]+\/[\w.+-]+$/i
const JUPYTER_DISPLAY = Symbol.for('Jupyter.display')

/** Methods by which values of other kernels (IJavascript, tslab) show themselves. */
const METHODS: Readonly<Record<string, string>> = {
  _toHtml: 'text/html',
  _toMarkdown: 'text/markdown',
  _toSvg: 'image/svg+xml',
  _toPng: 'image/png',
  _toJpeg: 'image/jpeg',
  _toLatex: 'text/latex',
}

export const describe = (value: unknown): string => inspect(value, TEXT_OPTIONS)

/** Never throws because of what the value's own methods do. */
export async function toMimeBundle(value: unknown): Promise<MimeBundle> {
  if (typeof value !== 'object' || value === null) return { 'text/plain': describe(value) }
  try {
    return (await ownForm(value)) ?? { 'text/plain': describe(value), ...asJson(value) }
  } catch (error) {
    return { 'text/plain': describe(value), 'application/vnd.error': String(error) }
  }
}

async function ownForm(value: object): Promise<MimeBundle | undefined> {
  const own = value as Record<string | symbol, unknown>
  const show = own[JUPYTER_DISPLAY] ?? own._toMime
  if (typeof show === 'function') {
    const bundle: unknown = await show.call(value)
    if (typeof bundle === 'object' && bundle !== null) return encode(bundle as MimeBundle)
  }
  const methods = Object.entries(METHODS).filter(([name]) => typeof own[name] === 'function')
  if (methods.length > 0) {
    const forms: MimeBundle = { 'text/plain': describe(value) }
    for (const [name, type] of methods) forms[type] = await (own[name] as () => unknown).call(value)
    return encode(forms)
  }
  return isMimeBundle(value) ? encode(value) : undefined
}

/** A plain object whose every key is a MIME type is a bundle already. */
function isMimeBundle(value: object): value is MimeBundle {
  const keys = isPlain(value) ? Object.keys(value) : []
  return keys.length > 0 && keys.every((key) => MIME_TYPE.test(key))
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/** Binary forms are sent as base64. */
function encode(bundle: MimeBundle): MimeBundle {
  return Object.fromEntries(
    Object.entries(bundle).map(([type, form]) => {
      if (form instanceof Uint8Array) {
        const bytes = Buffer.from(form.buffer, form.byteOffset, form.byteLength)
        return [
          type,
          bytes.toString(type.startsWith('image/svg') || type.startsWith('text/') ? 'utf8' : 'base64'),
        ]
      }
      return [type, form]
    }),
  )
}

/** Arrays and plain objects, where JSON can hold them. */
function asJson(value: object): MimeBundle {
  if (!Array.isArray(value) && !isPlain(value)) return {}
  try {
    const text = JSON.stringify(value)
    if (text === undefined || text.length > MAX_JSON_CHARACTERS) return {}
    return { 'application/json': JSON.parse(text) }
  } catch {
    return {}
  }
}
