/**
 * The ids with which this thread creates files, apart from its privileges. JavaScript of one thread runs alone: a
 * synchronous action is the only thing that sees them.
 */
import { checked, systemCall } from '../linux/libc.ts'

const setfsuidCall = systemCall(122, ['uint'])
const setfsgidCall = systemCall(123, ['uint'])
const capgetCall = systemCall(125, ['void *', 'void *'])
const capsetCall = systemCall(126, ['void *', 'void *'])
const CAPABILITY_VERSION_3 = 0x20080522
const capabilityHeaderBytes = 8
/** Two records of effective, permitted and inheritable, 4 bytes each. */
const capabilityDataBytes = 24

/**
 * Runs `action` with files created as `uid` and `gid`, privileges kept: an idmapped mount refuses (EOVERFLOW) to let
 * an id outside its range create anything, be it root.
 */
export function withFileSystemIds<Result>(uid: number, gid: number, action: () => Result): Result {
  const header = Buffer.alloc(capabilityHeaderBytes)
  header.writeUInt32LE(CAPABILITY_VERSION_3, 0)
  const capabilities = Buffer.alloc(capabilityDataBytes)
  checked(capgetCall(header, capabilities), 'capget')
  const previousGid = setfsgidCall(gid)
  const previousUid = setfsuidCall(uid)
  try {
    // Leaving uid 0 drops the file privileges; they are still permitted.
    checked(capsetCall(header, capabilities), 'capset')
    return action()
  } finally {
    setfsuidCall(previousUid)
    setfsgidCall(previousGid)
    checked(capsetCall(header, capabilities), 'capset')
  }
}
