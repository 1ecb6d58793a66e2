/** Paths of the agent that belong to the host alone. Nobody outside may reach them, however they are spelled. */

const INTERNAL = new Set(['init', 'start', 'freeze', 'unfreeze', 'collapse', 'fsfreeze', 'fsthaw', 'upgrade'])
const MAX_DECODE_ROUNDS = 4

/** Undoes percent-encoding until nothing changes, so that a double-encoded path cannot slip through. */
function decodeFully(path: string): string {
  let decoded = path
  for (let round = 0; round < MAX_DECODE_ROUNDS && decoded.includes('%'); round++) {
    const next = decoded.replace(/%([0-9a-f]{2})/gi, (_, hex: string) =>
      String.fromCharCode(parseInt(hex, 16)),
    )
    if (next === decoded) break
    decoded = next
  }
  return decoded
}

function segmentsOf(path: string): string[] {
  const segments: string[] = []
  for (const raw of path.split(/[/\\]/)) {
    // Matrix parameters, NUL and white space are noise that some parsers drop.
    const segment = raw.split(';', 1)[0]!.replace(/[^\x21-\x7e]/g, '')
    if (segment === '' || segment === '.') continue
    if (segment === '..') segments.pop()
    else segments.push(segment.toLowerCase())
  }
  return segments
}

/** The part of a request target before its query and fragment. */
export const pathOnly = (target: string): string => target.split(/[?#]/, 1)[0]!

/** True when `target` (path and query of a request) names an internal path or something below one. */
export function isInternalPath(target: string): boolean {
  const path = pathOnly(target)
  const decoded = path.includes('%') ? decodeFully(path) : path
  // An encoded `?` or `#` ends the path for an agent that decodes before it splits.
  const candidates = decoded === path ? [decoded] : [decoded, pathOnly(decoded)]
  return candidates.some((candidate) => INTERNAL.has(segmentsOf(candidate)[0] ?? ''))
}
