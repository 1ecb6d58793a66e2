import { isBuiltin } from 'node:module'
import { rolldown } from 'rolldown'
import { nativeBase64 } from './native-base64.ts'

const KOFFI = '\0koffi'
/** The native part alone: the package around it only searches for the right file. */
const KOFFI_MODULE = `
import { createRequire } from 'node:module'
const koffi = createRequire(import.meta.url)('./koffi.node')
export default koffi
`

/**
 * Bundles a program with everything it imports into one ES module, which expects `koffi.node` beside it.
 * @throws Error when an import is not installed: it would be left for the sandbox, which has no packages
 */
export async function bundleProgram(entryFile: string): Promise<string> {
  const build = await rolldown({
    input: entryFile,
    platform: 'node',
    treeshake: true,
    plugins: [
      {
        name: 'native-koffi',
        resolveId: (id) => (id === 'koffi' ? KOFFI : null),
        load: (id) => (id === KOFFI ? KOFFI_MODULE : null),
      },
      nativeBase64,
    ],
  })
  try {
    const { output } = await build.generate({ format: 'esm', minify: true, codeSplitting: false })
    const [chunk, ...others] = output
    if (others.length > 0) throw new Error(`${entryFile}: expected one file, got ${output.length}`)
    // A module that is imported late lies in the same file.
    const missing = [...chunk.imports, ...chunk.dynamicImports].filter(
      (name) => !isBuiltin(name) && name !== chunk.fileName,
    )
    if (missing.length > 0) throw new Error(`${entryFile}: not installed here: ${missing.join(', ')}`)
    return chunk.code
  } finally {
    await build.close()
  }
}
