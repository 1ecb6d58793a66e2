export const kernelInfo = {
  protocol_version: '5.3',
  implementation: 'javascript-kernel',
  implementation_version: '1.0.0',
  language_info: {
    name: 'javascript',
    version: process.versions.node,
    mimetype: 'text/javascript',
    file_extension: '.js',
  },
  banner: `Node.js ${process.version}`,
  help_links: [],
}
