/** The template `base`: Debian with Python, Node and git; every other template of ours starts from it. */
import { define, env, run, type TemplateDefinition, user, workdir } from '../dsl/template.ts'

const CA_BUNDLE = '/etc/ssl/certs/ca-certificates.crt'

/** @param hasPrivateCa tells programs that bring CAs of their own to use the system's instead */
export function baseTemplate(hasPrivateCa: boolean): TemplateDefinition {
  const trust = { SSL_CERT_FILE: CA_BUNDLE, REQUESTS_CA_BUNDLE: CA_BUNDLE, NODE_EXTRA_CA_CERTS: CA_BUNDLE }
  return define({
    name: 'base',
    from: { rootfs: 'base' },
    steps: [
      ...(hasPrivateCa ? [env(trust)] : []),
      user('user'),
      workdir('/home/user'),
      run('python --version && node --version && git --version && sudo true'),
    ],
  })
}
