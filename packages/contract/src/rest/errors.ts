import { Type } from 'typebox'

/** The body of every error answer; `code` equals the HTTP status. */
export const ErrorBody = Type.Object({
  code: Type.Integer(),
  message: Type.String(),
  error_code: Type.Optional(Type.String()),
})
