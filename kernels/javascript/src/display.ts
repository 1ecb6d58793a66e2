/** The functions by which a cell shows more than its last value: `display(value)`, `display.html('<b>x</b>')`. */
import { type MimeBundle, toMimeBundle } from './mime-bundle.ts'

const FORMS: Readonly<Record<string, string>> = {
  text: 'text/plain',
  html: 'text/html',
  markdown: 'text/markdown',
  svg: 'image/svg+xml',
  png: 'image/png',
  jpeg: 'image/jpeg',
  pdf: 'application/pdf',
  latex: 'text/latex',
  json: 'application/json',
  javascript: 'application/javascript',
}

/** Defines the global `display`, and `$$` as IJavascript calls it. */
export function installDisplay(publish: (bundle: MimeBundle) => void): void {
  const show = (bundle: MimeBundle): Promise<void> => toMimeBundle(bundle).then(publish)
  const forms = Object.fromEntries(
    Object.entries(FORMS).map(([name, type]) => [name, (form: unknown) => show({ [type]: form })]),
  )
  const display = Object.assign((value: unknown) => toMimeBundle(value).then(publish), forms, {
    mime: show,
    display: (value: unknown) => toMimeBundle(value).then(publish),
  })
  for (const name of ['display', '$$']) {
    Object.defineProperty(globalThis, name, { value: display, writable: true, configurable: true })
  }
}
