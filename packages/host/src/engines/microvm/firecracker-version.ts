/** What differs between versions of Firecracker. */

export interface FirecrackerTraits {
  /** Field of a load request that asks for dirty tracking. */
  dirtyTracking: 'track_dirty_pages' | 'enable_diff_snapshots'
  /** The guest tells of pages that it has freed. */
  reportsFreePages: boolean
  /** Of a memory that may be captured as a difference. */
  largestDifferenceBytes: number
}

type Version = readonly [major: number, minor: number, patch: number]

const RENAMED_DIRTY_TRACKING: Version = [1, 13, 0]
/** The version before calls it a preview. */
const REPORTS_FREE_PAGES: Version = [1, 15, 0]
/** Before, a difference of a memory that goes on above the gap for devices was written to wrong places. */
const DIFFERS_ABOVE_GAP: Version = [1, 14, 1]
const GAP_BEGINS_AT_BYTES = 3 * 2 ** 30

/** @param version e.g. 1.16.1 */
export function traitsOf(version: string): FirecrackerTraits {
  const isSince = (since: Version): boolean => {
    const parts = version.split('.').map(Number)
    const at = since.findIndex((part, index) => part !== (parts[index] ?? 0))
    return at < 0 || (parts[at] ?? 0) > since[at]!
  }
  return {
    dirtyTracking: isSince(RENAMED_DIRTY_TRACKING) ? 'track_dirty_pages' : 'enable_diff_snapshots',
    reportsFreePages: isSince(REPORTS_FREE_PAGES),
    largestDifferenceBytes: isSince(DIFFERS_ABOVE_GAP) ? Number.POSITIVE_INFINITY : GAP_BEGINS_AT_BYTES,
  }
}
