/** For tests: trees in the stream's form, and what no honest writer would write. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../../../linux/process.ts'
import {
  ATTRIBUTE_HEADER_BYTES,
  EXTENT_BYTES,
  RECORD_BYTES,
  type StreamSource,
  TREE_MAGIC,
} from './tree-stream.ts'

const NATIVE = join(import.meta.dirname, '../../../../native')

/** Stands in for guest-init: exports a directory of this machine into a file. */
const WRITER = `
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "guest-export.h"
void fail(const char *what, const char *name) {
    char reason[512];
    snprintf(reason, sizeof reason, "%s %s: %s", what, name, strerror(errno));
    export_failed(reason);
    exit(1);
}
int main(int count, char **words) {
    if (count != 3) return 2;
    begin_export(words[2]);
    export_tree(words[1]);
}
`

/** Compiles the guest's own writer for this machine. @returns what exports a directory: its stream */
export async function buildTreeWriter(dir: string): Promise<(tree: string) => Buffer> {
  const program = join(dir, 'write-tree')
  writeFileSync(`${program}.c`, WRITER)
  const flags = ['-Wall', '-Wextra', '-Werror', '-fsanitize=address,undefined', '-I', NATIVE, '-o', program]
  await run('gcc', [...flags, `${program}.c`, join(NATIVE, 'guest-export.c')])
  return (tree) => {
    const path = join(dir, 'stream')
    writeFileSync(path, '')
    try {
      execFileSync(program, [tree, path], { stdio: 'ignore' })
    } catch {
      // Why is in the stream.
    }
    return readFileSync(path)
  }
}

export interface RecordWords {
  kind: string
  name?: string
  isLinked?: boolean
  mode?: number
  uid?: number
  gid?: number
  device?: readonly [number, number]
  size?: number | bigint
  seconds?: bigint
  nanoseconds?: number
  attributes?: readonly (readonly [string, string])[]
  nameLength?: number
  attributesLength?: number
}

export function recordBytes(words: RecordWords): Buffer {
  const head = Buffer.alloc(RECORD_BYTES)
  const name = Buffer.from(words.name ?? '', 'latin1')
  const attributes = Buffer.concat((words.attributes ?? []).map((one) => attributeBytes(...one)))
  head.write(words.kind, 0, 'latin1')
  head[1] = words.isLinked ? 1 : 0
  head.writeUInt16LE(words.nameLength ?? name.length, 2)
  head.writeUInt32LE(words.mode ?? 0o644, 4)
  head.writeUInt32LE(words.uid ?? 0, 8)
  head.writeUInt32LE(words.gid ?? 0, 12)
  head.writeUInt32LE(words.device?.[0] ?? 0, 16)
  head.writeUInt32LE(words.device?.[1] ?? 0, 20)
  head.writeBigUInt64LE(BigInt(words.size ?? 0), 24)
  head.writeBigInt64LE(words.seconds ?? 0n, 32)
  head.writeUInt32LE(words.nanoseconds ?? 0, 40)
  head.writeUInt32LE(words.attributesLength ?? attributes.length, 44)
  return Buffer.concat([head, name, attributes])
}

function attributeBytes(name: string, value: string): Buffer {
  const head = Buffer.alloc(ATTRIBUTE_HEADER_BYTES)
  head.writeUInt16LE(name.length, 0)
  head.writeUInt32LE(value.length, 2)
  return Buffer.concat([head, Buffer.from(name + value, 'latin1')])
}

/** A file's data; without an argument, its end. */
export function extentBytes(offset: number | bigint = 0, data = '', length = data.length): Buffer {
  const head = Buffer.alloc(EXTENT_BYTES)
  head.writeBigUInt64LE(BigInt(offset), 0)
  head.writeBigUInt64LE(BigInt(length), 8)
  return Buffer.concat([head, Buffer.from(data, 'latin1')])
}

export const ROOT: RecordWords = { kind: 'D', mode: 0o755 }
export const UP: RecordWords = { kind: 'U' }

/** Root, what is given, and an honest end for `entries` records below the root. */
export const treeBytes = (entries: number, ...parts: readonly (RecordWords | Buffer)[]): Buffer =>
  streamBytes(ROOT, ...parts, UP, { kind: 'E', size: entries + 1 })

export const streamBytes = (...parts: readonly (RecordWords | Buffer)[]): Buffer =>
  Buffer.concat([
    Buffer.from(TREE_MAGIC),
    ...parts.map((part) => (Buffer.isBuffer(part) ? part : recordBytes(part))),
  ])

/** Read in pieces of at most `pieceBytes`. */
export const sourceOf = (bytes: Buffer, pieceBytes = Number.POSITIVE_INFINITY): StreamSource => ({
  async read(buffer, offset, length, position) {
    const end = Math.min(bytes.length, position + Math.min(length, pieceBytes))
    return { bytesRead: position < end ? bytes.copy(buffer, offset, position, end) : 0 }
  },
})
