import type { Sandbox } from '@e2b/code-interpreter'

/**
 * Code that draws a random number or tells an identity, by language. Generators that a user keeps are made in the
 * first draw and used again in later ones.
 */
const DRAWS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  python: {
    random: 'import random; random.random()',
    'a kept random.Random': `import random; globals().setdefault('own', random.Random()).random()`,
    'numpy.random': 'import numpy; float(numpy.random.rand())',
    'numpy.random.default_rng': 'import numpy; float(numpy.random.default_rng().random())',
    'a kept Generator of numpy': `import numpy; globals().setdefault('generator', numpy.random.default_rng()).random()`,
    'what a kept Generator spawns': 'generator.spawn(1)[0].random()',
    'a kept RandomState of numpy': `import numpy; globals().setdefault('state', numpy.random.RandomState()).randn()`,
    uuid4: 'import uuid; str(uuid.uuid4())',
    secrets: 'import secrets; secrets.token_hex(8)',
    'os.urandom': 'import os; os.urandom(8).hex()',
    OpenSSL: 'import ssl; ssl.RAND_bytes(8).hex()',
    'names of temporary files': 'import tempfile; tempfile.mktemp()',
    'host name': 'import socket; socket.gethostname()',
    'id in the environment': 'import os; os.environ["E2B_SANDBOX_ID"]',
  },
  javascript: {
    'Math.random': 'Math.random()',
    'Math.random of another realm': `globalThis.realm ??= require('vm').createContext(); require('vm').runInContext('Math.random()', realm)`,
    'Math.random of a living worker': `globalThis.worker ??= new (require('worker_threads').Worker)(
      'const { parentPort: p } = require("worker_threads"); p.on("message", () => p.postMessage(Math.random()))',
      { eval: true }); worker.unref(); worker.postMessage(0); (await require('events').once(worker, 'message'))[0]`,
    'Math.random of a new realm': `require('vm').runInNewContext('Math.random()')`,
    'crypto.randomUUID': 'crypto.randomUUID()',
    'crypto.randomBytes': 'require("crypto").randomBytes(8).toString("hex")',
    'crypto.randomInt': 'require("crypto").randomInt(2 ** 40)',
    'crypto.getRandomValues': 'crypto.getRandomValues(new Uint32Array(2)).join()',
  },
  typescript: {
    'Math.random': 'Math.random()',
    'crypto.randomUUID': 'crypto.randomUUID()',
  },
  r: {
    runif: 'cat(format(runif(1), digits = 15))',
    rnorm: 'cat(format(rnorm(1), digits = 15))',
    sample: 'cat(sample(1e9, 1))',
    uuid: 'cat(uuid::UUIDgenerate())',
    tempfile: 'cat(tempfile())',
  },
  java: {
    'Math.random': 'Math.random()',
    'new Random': 'new Random().nextLong()',
    'a kept Random': 'if (kept == null) kept = new Random(); kept.nextLong()',
    ThreadLocalRandom: 'ThreadLocalRandom.current().nextLong()',
    SplittableRandom: 'new SplittableRandom().nextLong()',
    'other generators': 'java.util.random.RandomGenerator.of("L64X128MixRandom").nextLong()',
    'Collections.shuffle':
      'var many = new ArrayList<Integer>(); for (int i = 0; i < 100000; i++) many.add(i); Collections.shuffle(many); many.get(0) + "," + many.get(1)',
    SecureRandom: 'new java.security.SecureRandom().nextLong()',
    DRBG: 'java.security.SecureRandom.getInstance("DRBG").nextLong()',
    SHA1PRNG: 'java.security.SecureRandom.getInstance("SHA1PRNG").nextLong()',
    UUID: 'UUID.randomUUID().toString()',
  },
  bash: {
    RANDOM: 'echo $RANDOM$RANDOM$RANDOM',
    SRANDOM: 'echo $SRANDOM$SRANDOM',
    OpenSSL: 'openssl rand -hex 8',
    uuid: 'cat /proc/sys/kernel/random/uuid',
    HOSTNAME: 'echo $HOSTNAME',
    'host name': 'hostname',
    'machine id': 'cat /etc/machine-id',
    'boot id': 'cat /proc/sys/kernel/random/boot_id',
  },
}

/** Begins what later draws use again; needed once in the life of the kernels. */
export async function beginDraws(sandbox: Sandbox): Promise<void> {
  await sandbox.runCode('Random kept;', { language: 'java' })
}

/** Draws once from every source. @returns by language and source, for example `r runif` */
export async function drawAll(sandbox: Sandbox): Promise<Map<string, string>> {
  const drawn = new Map<string, string>()
  const drawLanguage = async (language: string, sources: Readonly<Record<string, string>>): Promise<void> => {
    for (const [name, code] of Object.entries(sources)) {
      const { error, results, logs } = await sandbox.runCode(code, { language })
      if (error) throw new Error(`${language} ${name}: ${error.name}: ${error.value}`)
      drawn.set(`${language} ${name}`, (results[0]?.text ?? logs.stdout.join('')).trim())
    }
  }
  await Promise.all(Object.entries(DRAWS).map(([language, sources]) => drawLanguage(language, sources)))
  return drawn
}

/** The keys of what `drawAll` gives. */
export const DRAW_NAMES: readonly string[] = Object.entries(DRAWS).flatMap(([language, sources]) =>
  Object.keys(sources).map((name) => `${language} ${name}`),
)
