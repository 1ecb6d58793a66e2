/** Ports inside a sandbox that clients and server agree on. */
export const ENVD_PORT = 49983
export const INTERPRETER_PORT = 49999
export const JUPYTER_PORT = 8888
export const MCP_PORT = 50005
