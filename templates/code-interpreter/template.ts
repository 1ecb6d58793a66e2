/** The template `code-interpreter-v1`: `base` with Jupyter Server, kernels and what a data analyst expects. */
import { readdirSync, readFileSync } from 'node:fs'
import { define, env, files, run, type TemplateDefinition, user, workdir } from '../dsl/template.ts'

const HERE = new URL('.', import.meta.url)
const CHARTS_DIR = new URL('../../python/e2b_charts/', HERE)

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

const INSTALL_CHARTS =
  'pip install --no-cache-dir --no-index --no-build-isolation --no-deps /opt/e2b/src/e2b_charts' +
  ' && rm -rf /opt/e2b/src'

/** What first use would compute is computed now: the kernelspecs, the index of fonts. */
const PREPARE_KERNELS =
  'python -m ipykernel install --name python3 && python -m bash_kernel.install --sys-prefix' +
  ' && mkdir -p /opt/e2b/run && chown user:user /opt/e2b/run'
const WARM_CACHES = 'python -c "import matplotlib.pyplot, pandas"'

export function codeInterpreterTemplate(): TemplateDefinition {
  return define({
    name: 'code-interpreter-v1',
    from: { template: 'base' },
    steps: [
      user('root'),
      files({ '/opt/e2b/requirements.txt': text('files/requirements.txt') }),
      run('pip install --no-cache-dir -r /opt/e2b/requirements.txt'),
      files(chartsPackage()),
      run(INSTALL_CHARTS),
      files({
        '/opt/e2b/jupyter_server_config.py': text('files/jupyter_server_config.py'),
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
