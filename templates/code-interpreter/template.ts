/** The template `code-interpreter-v1`: `base` with Jupyter Server, kernels and what a data analyst expects. */
import { readdirSync, readFileSync } from 'node:fs'
import { define, env, files, run, type TemplateDefinition, user, workdir } from '../dsl/template.ts'

const HERE = new URL('.', import.meta.url)
const CHARTS_DIR = new URL('../../python/e2b_charts/', HERE)
const JAVA_KERNEL_DIR = new URL('../../kernels/java/src/', HERE)
const KERNELSPECS = ['javascript', 'typescript', 'bash', 'r', 'java']

const PATH = '/home/user/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Kept running by the agent, which reads them from /etc/e2b/services.json when the sandbox boots. */
const SERVICES = [
  {
    name: 'jupyter',
    // -s: what the user installs for himself must not break the server.
    cmd: ['/usr/bin/python3', '-s', '-m', 'jupyter_server', '--config=/opt/e2b/jupyter_server_config.py'],
    user: 'user',
    workdir: '/home/user',
    env: { HOME: '/home/user', PATH, LANG: 'C.UTF-8' },
    restart: true,
  },
  {
    name: 'code-interpreter',
    cmd: ['/.e2b/bin/node', '--max-semi-space-size=1', '/.e2b/interpreter.mjs'],
    user: 'user',
    workdir: '/home/user',
    env: { HOME: '/home/user', PATH },
    restart: true,
  },
]

const READY = 'curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:49999/health | grep -q 200'

/**
 * R with its kernel, and the JDK, from Debian. Not what only runs elsewhere: the modules for linking run-time images
 * of Java, 70 MB.
 */
const INSTALL_R_AND_JAVA =
  'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends' +
  ' r-base-core r-cran-irkernel openjdk-17-jdk-headless' +
  ' && rm -rf /usr/lib/jvm/*/jmods && apt-get clean && rm -rf /var/lib/apt/lists/*'

const JAVA_KERNEL = '/opt/e2b/java-kernel'
/** Compiles the kernel, then runs it once for an archive of its classes: it starts in half the time. */
const BUILD_JAVA_KERNEL = [
  `javac -d /tmp/java-kernel ${JAVA_KERNEL}-src/e2b/*.java`,
  `jar --create --file ${JAVA_KERNEL}.jar -C /tmp/java-kernel e2b`,
  `rm -rf /tmp/java-kernel ${JAVA_KERNEL}-src`,
  `java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xlog:disable -XX:ArchiveClassesAtExit=${JAVA_KERNEL}.jsa` +
    ` -cp ${JAVA_KERNEL}.jar e2b.JavaKernel --rehearse`,
].join(' && ')

/** Where `install.packages` of the user finds packages, and a folder of his own to put them. */
const SET_UP_R = [
  `echo 'options(repos = c(CRAN = "https://cloud.r-project.org"))' >> /etc/R/Rprofile.site`,
  `sudo -u user mkdir -p "$(HOME=/home/user Rscript -e 'cat(path.expand(Sys.getenv("R_LIBS_USER")))')"`,
].join(' && ')

/** The program that a Python package brings: Debian's comes with 139 packages, 390 MB, for screens and sound. */
const LINK_FFMPEG =
  'ln -s "$(python -c \'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())\')" /usr/local/bin/ffmpeg' +
  ' && ffmpeg -version | head -n 1'

/** The program that an npm package brings, 79 MB: the Python package has `ffmpeg` alone. */
const FFPROBE_PACKAGE = '@ffprobe-installer/linux-x64'
const INSTALL_FFPROBE = [
  `npm install --global --silent ${FFPROBE_PACKAGE}@5.2.0`,
  `mv "$(npm root --global)/${FFPROBE_PACKAGE}/ffprobe" /usr/local/bin/ffprobe`,
  `chmod 755 /usr/local/bin/ffprobe && npm uninstall --global --silent ${FFPROBE_PACKAGE}`,
  'ffprobe -version | head -n 1',
].join(' && ')

/** For decorators in cells, which the kernel has it rewrite, and as a program. */
const INSTALL_TYPESCRIPT = 'npm install --global --silent typescript@6.0.3 && tsc --version'

/**
 * Characters of Chinese, Japanese and Korean, for charts of matplotlib without a word about fonts. Not those with serifs,
 * 50 MB.
 */
const INSTALL_FONTS = [
  'apt-get update -qq',
  'DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends fonts-noto-cjk',
  'rm -rf /usr/share/fonts/opentype/noto/NotoSerifCJK-* && apt-get clean && rm -rf /var/lib/apt/lists/*',
  "sed -i 's/^#font.family: .*/#font.family: sans-serif, Noto Sans CJK JP/'" +
    ' "$(python -c \'import matplotlib; print(matplotlib.matplotlib_fname())\')"',
].join(' && ')

const INSTALL_CHARTS =
  'pip install --no-cache-dir --no-index --no-build-isolation --no-deps /opt/e2b/src/e2b_charts' +
  ' && rm -rf /opt/e2b/src'

/** What first use would compute is computed now: the kernelspecs, the index of fonts. */
const PREPARE_KERNELS =
  'python -m ipykernel install --name python3' + ' && mkdir -p /opt/e2b/run && chown user:user /opt/e2b/run'
const WARM_CACHES = 'python -c "import matplotlib.pyplot, pandas"'

export function codeInterpreterTemplate(): TemplateDefinition {
  return define({
    name: 'code-interpreter-v1',
    from: { template: 'base' },
    steps: [
      user('root'),
      run(INSTALL_R_AND_JAVA),
      files({ '/opt/e2b/requirements.txt': text('files/requirements.txt') }),
      run('pip install --no-cache-dir -r /opt/e2b/requirements.txt'),
      files(chartsPackage()),
      run(INSTALL_CHARTS),
      run(LINK_FFMPEG),
      run(INSTALL_FFPROBE),
      files(javaKernelSources()),
      run(BUILD_JAVA_KERNEL),
      run(SET_UP_R),
      run(INSTALL_TYPESCRIPT),
      run(INSTALL_FONTS),
      files(kernelspecs()),
      files({
        '/opt/e2b/jupyter_server_config.py': text('files/jupyter_server_config.py'),
        '/opt/e2b/start_bash_kernel.py': text('files/start_bash_kernel.py'),
        '/opt/e2b/start_r_kernel.R': text('files/start_r_kernel.R'),
        '/opt/e2b/start_r_kernel.py': text('files/start_r_kernel.py'),
        '/opt/e2b/with_output_pipes.py': text('files/with_output_pipes.py'),
        '/etc/ipython/ipython_kernel_config.py': text('files/ipython_kernel_config.py'),
        '/etc/e2b/services.json': `${JSON.stringify({ services: SERVICES }, null, 2)}\n`,
      }),
      run(PREPARE_KERNELS),
      user('user'),
      workdir('/home/user'),
      run(WARM_CACHES),
      env({ PIP_NO_CACHE_DIR: '1' }),
    ],
    readyCmd: READY,
  })
}

const text = (path: string): string => readFileSync(new URL(path, HERE), 'utf8')

const kernelspecs = (): Record<string, string> =>
  Object.fromEntries(
    KERNELSPECS.map((name) => [
      `/usr/local/share/jupyter/kernels/${name}/kernel.json`,
      text(`files/kernels/${name}/kernel.json`),
    ]),
  )

function javaKernelSources(): Record<string, string> {
  const names = readdirSync(JAVA_KERNEL_DIR, { recursive: true, encoding: 'utf8' })
  return Object.fromEntries(
    names
      .filter((name) => name.endsWith('.java'))
      .toSorted()
      .map((name) => [`${JAVA_KERNEL}-src/${name}`, readFileSync(new URL(name, JAVA_KERNEL_DIR), 'utf8')]),
  )
}

/** The Python package of the kernel's start-up, file by file. */
function chartsPackage(): Record<string, string> {
  const names = readdirSync(CHARTS_DIR, { recursive: true, encoding: 'utf8' }).filter(
    (name) => name === 'pyproject.toml' || (name.startsWith('e2b_charts/') && name.endsWith('.py')),
  )
  return Object.fromEntries(
    names
      .toSorted()
      .map((name) => [`/opt/e2b/src/e2b_charts/${name}`, readFileSync(new URL(name, CHARTS_DIR), 'utf8')]),
  )
}
