/** Which kernel guests get: of the cloud kernels that apt serves on this machine, verified by Debian's signatures. */
import { run } from '../../../linux/process.ts'

/** The release's own kernel and, where Debian maintains it besides, one of a later series. */
const META_PACKAGE = /^linux-image-(\d+\.\d+-)?cloud-amd64$/

export interface ServedKernel {
  /** The package that holds it, e.g. linux-image-6.12.117+deb12-cloud-amd64. */
  packageName: string
  /** Of that package, e.g. 6.12.117-1~deb12u1. */
  version: string
}

/** Package and version, as the image in use names its kernel. */
export const kernelName = ({ packageName, version }: ServedKernel): string => `${packageName} ${version}`

/**
 * What would be installed today.
 * @param series e.g. 6.1; empty is the newest that is served
 * @throws Error when apt knows none; CommandError with apt's words
 */
export async function servedKernel(series: string): Promise<ServedKernel> {
  const { stdout: names } = await run('apt-cache', ['pkgnames', 'linux-image-'])
  const metaPackages = names.split('\n').filter((name) => META_PACKAGE.test(name))
  if (metaPackages.length === 0) throw new Error("apt knows no cloud kernel: run 'apt-get update'")
  const { stdout } = await run('apt-cache', ['show', '--no-all-versions', ...metaPackages])
  return chooseKernel(kernelsIn(stdout), series)
}

/** @param records of meta packages, as `apt-cache show` prints them */
export const kernelsIn = (records: string): ServedKernel[] =>
  [...records.matchAll(/^Depends: (linux-image-\S+) \(= (\S+?)\)/gm)].map(([, packageName, version]) => ({
    packageName: packageName!,
    version: version!,
  }))

/** @throws Error when there is none of that series */
export function chooseKernel(kernels: readonly ServedKernel[], series: string): ServedKernel {
  const fitting = kernels.filter((kernel) => isOfSeries(kernelName(kernel), series))
  const [newest] = fitting.sort((one, other) => {
    const [[major, minor], [otherMajor, otherMinor]] = [
      seriesOf(one.packageName),
      seriesOf(other.packageName),
    ]
    return otherMajor - major || otherMinor - minor
  })
  if (newest) return newest
  const known = kernels.map(({ packageName }) => seriesOf(packageName).join('.')).join(', ')
  throw new Error(`apt serves no cloud kernel of series ${series}; it serves ${known}`)
}

/** Whether a kernel is one that was asked for. @param name see `kernelName` */
export const isOfSeries = (name: string, series: string): boolean =>
  series === '' || seriesOf(name).join('.') === series

function seriesOf(name: string): [major: number, minor: number] {
  const [major = 0, minor = 0] = /(\d+)\.(\d+)/.exec(name)?.slice(1).map(Number) ?? []
  return [major, minor]
}
