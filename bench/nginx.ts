import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** An nginx that does what the edge does for transfers, as its operators set it up: one hop, nothing buffered. */
export interface Nginx {
  readonly port: number
  readonly tlsPort: number
  close(): Promise<void>
}

const [PORT, TLS_PORT] = [5096, 5097]
const STARTS_WITHIN_MS = 5_000

export const isInstalled = (program: string): boolean =>
  spawnSync('sh', ['-c', `command -v ${program}`]).status === 0

/**
 * @param upstream `address:port`
 * @param certificate paths of both files
 */
export async function startNginx(
  upstream: string,
  certificate: { cert: string; key: string },
): Promise<Nginx> {
  const dir = mkdtempSync(join(tmpdir(), 'e2b-bench-nginx-'))
  const path = join(dir, 'nginx.conf')
  writeFileSync(path, configuration(dir, upstream, certificate))
  const child = spawn('nginx', ['-c', path, '-p', dir, '-e', 'stderr'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  await listening(PORT)
  return {
    port: PORT,
    tlsPort: TLS_PORT,
    close: async () => {
      const exited = once(child, 'exit')
      if (child.exitCode === null && child.kill('SIGTERM')) await exited
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

const configuration = (
  dir: string,
  upstream: string,
  { cert, key }: { cert: string; key: string },
): string => `
daemon off; user root; worker_processes auto; pid ${dir}/nginx.pid;
events { worker_connections 256; }
http {
  access_log off; client_max_body_size 0; client_body_temp_path ${dir}; proxy_temp_path ${dir};
  fastcgi_temp_path ${dir}; uwsgi_temp_path ${dir}; scgi_temp_path ${dir};
  upstream agent { server ${upstream}; keepalive 8; }
  server {
    listen 127.0.0.1:${PORT};
    listen 127.0.0.1:${TLS_PORT} ssl;
    ssl_certificate ${cert}; ssl_certificate_key ${key};
    location / {
      proxy_pass http://agent; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }
  }
}
`

async function listening(port: number): Promise<void> {
  const endsAtMs = performance.now() + STARTS_WITHIN_MS
  for (;;) {
    const socket = connect(port, '127.0.0.1')
    const isOpen = await once(socket, 'connect').then(
      () => true,
      () => false,
    )
    socket.destroy()
    if (isOpen) return
    if (performance.now() > endsAtMs) throw new Error('nginx does not listen')
    await delay(20)
  }
}
