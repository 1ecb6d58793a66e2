import type { TreeAttribute, TreeRecord } from './tree-stream.ts'

/**
 * Extended attributes that a layer keeps. What this machine's kernel would act upon besides (labels of security
 * modules, properties of file systems) is not a guest's to set; what overlay keeps for itself is of its own mount.
 */
const KEPT = ['security.capability', 'system.posix_acl_access', 'system.posix_acl_default']
const OVERLAY = 'trusted.overlay.'

export const keptAttributes = ({ kind, attributes }: TreeRecord): readonly TreeAttribute[] =>
  attributes.filter(({ name, value }) => {
    if (name.startsWith(OVERLAY))
      return isOfOverlay(kind, name.slice(OVERLAY.length), value.toString('latin1'))
    return name.startsWith('user.') || name.startsWith('trusted.') || KEPT.includes(name)
  })

/** A directory that hides what lies below it, or one that was moved there; or of an overlay within the guest's. */
function isOfOverlay(kind: TreeRecord['kind'], name: string, value: string): boolean {
  if (name.startsWith('overlay.')) return true
  if (name === 'whiteout') return kind === 'file'
  if (kind !== 'directory') return false
  return name === 'opaque' ? value === 'y' || value === 'x' : name === 'redirect' && isRedirect(value)
}

/** A name beside it, or a path from the root of the tree. */
function isRedirect(value: string): boolean {
  const components = value.startsWith('/') ? value.slice(1).split('/') : [value]
  return components.every((one) => one !== '' && one !== '.' && one !== '..' && !/[/\0]/.test(one))
}
