import { describe, expect, it } from 'vitest'
import { chooseKernel, isOfSeries, kernelName, kernelsIn, servedKernel } from './kernel-source.ts'

const RECORDS = `Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)

Package: linux-image-6.12-cloud-amd64
Version: 6.12.117-1~deb12u1
Depends: linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1~deb12u1)

Package: linux-image-6.9-cloud-amd64
Version: 6.9.7-1
Depends: linux-image-6.9.7-cloud-amd64 (= 6.9.7-1)
`

describe('the kernel of guests', () => {
  const kernels = kernelsIn(RECORDS)

  it('is the newest that is served, by number', () => {
    expect(kernelName(chooseKernel(kernels, ''))).toBe(
      'linux-image-6.12.117+deb12-cloud-amd64 6.12.117-1~deb12u1',
    )
  })

  it('is of the series that is asked for', () => {
    const chosen = chooseKernel(kernels, '6.1')
    expect(chosen).toEqual({ packageName: 'linux-image-6.1.0-56-cloud-amd64', version: '6.1.192-2' })
    expect(isOfSeries(kernelName(chosen), '6.1')).toBe(true)
    expect(isOfSeries(kernelName(chosen), '6.12')).toBe(false)
    expect(isOfSeries(kernelName(chosen), '')).toBe(true)
  })

  it('is none where that series is not served, and the error names those that are', () => {
    expect(() => chooseKernel(kernels, '6.5')).toThrow(
      /no cloud kernel of series 6.5; it serves 6.1, 6.12, 6.9/,
    )
  })

  it('is one that apt knows on this machine', async () => {
    expect((await servedKernel('')).packageName).toMatch(/^linux-image-\d+\.\d+.*-cloud-amd64$/)
  })
})
