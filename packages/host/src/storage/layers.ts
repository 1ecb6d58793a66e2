/** A read-only file-system layer: one EROFS image, named by the sha256 of its bytes. */
export interface Layer {
  readonly digest: string
  readonly imagePath: string
  readonly sizeBytes: number
}
