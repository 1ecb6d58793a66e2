/** A read or a write may do less than it was asked for and be no failure: before the end of a file, on a full disk. */
import type { FileHandle } from 'node:fs/promises'

/** Fills `into`. @throws Error when the file ends before */
export async function readWhole(file: FileHandle, into: Buffer, position: number): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done)
    if (bytesRead === 0) throw new Error('the file ended while it was read')
    done += bytesRead
  }
}

export async function writeWhole(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; )
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten
}
