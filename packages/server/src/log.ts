import { type Logger, pino } from 'pino'

/** The log of a process on its standard error. @param level the least that is written */
export const openLog = (level: string): Logger =>
  pino({ level, base: null }, pino.destination({ dest: 2, sync: false }))
